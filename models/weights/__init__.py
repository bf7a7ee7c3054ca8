"""Loads a checkpoint's tensors into the decoder's sharded arrays."""
