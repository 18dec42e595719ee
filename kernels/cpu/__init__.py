"""The CPU backend: numba kernels over rows, in torch's own threads."""
