"""A run, a comparison or a probe as one page to hand around."""
