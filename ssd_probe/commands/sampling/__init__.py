"""Around `sample`: its shards, an engine's certificate, and samples for other trainers."""
