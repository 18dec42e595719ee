"""What becomes of a model while it is trained: its distributions on held-out contexts, by kind."""
