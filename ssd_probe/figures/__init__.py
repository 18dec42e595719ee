"""Frames that are already in plot form, drawn: one file a family of figures."""
