"""Forks by intervention: which tokens to force, what became of the programs, and what that says."""
