"""Model-written programs, run in a box and judged."""
