"""Sweeps of checkpoints and decodings: their table, its summaries, and what the paper printed."""
