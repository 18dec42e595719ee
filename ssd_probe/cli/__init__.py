"""The `ssd-probe` command line: parsing and printing, nothing else."""
