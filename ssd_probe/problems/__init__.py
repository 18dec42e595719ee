"""Prompts to sample from, texts to probe, tasks to judge, and the formats they come in."""
