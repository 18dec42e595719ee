"""Parts of fine-tuning: batches, adapters, going on after a kill, what is told on the way."""
