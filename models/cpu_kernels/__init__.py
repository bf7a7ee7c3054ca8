"""Kernels in C++ for what XLA does slowly on CPU: optional, compiled by `make cpu-kernels`."""
