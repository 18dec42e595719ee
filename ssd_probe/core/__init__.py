"""The sample-and-SFT core: sample, fine-tune, and lanes to do either side by side."""
