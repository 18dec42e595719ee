"""What differs between two runs, or a run and a published recipe."""
