"""Matrices of published quantized checkpoints, read as float32: a module for each way to store."""
