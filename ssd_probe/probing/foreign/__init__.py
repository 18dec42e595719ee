"""Other people's log-probabilities: their formats, what follows from them, their table."""
