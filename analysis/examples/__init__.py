"""Single positions and texts for the figures: which ones, and what is shown of them."""
