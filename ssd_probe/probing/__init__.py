"""Texts in, the probe table out: the statistics of every next-token distribution."""
