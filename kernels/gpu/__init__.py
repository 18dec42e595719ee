"""The GPU backend: Triton kernels for CUDA and HIP."""
