"""Numerical kernels; each folder is one op with a torch reference and, where faster, CPU and CUDA implementations."""
