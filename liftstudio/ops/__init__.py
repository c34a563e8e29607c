"""Numerical kernels: each folder is one op with a reference, a CPU and a CUDA implementation."""
