"""Models and tokenizers from disk: checkpoints, adapters, and whether their weights are whole."""
