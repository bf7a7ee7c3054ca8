"""Proof without a TPU: the server's own programs, compiled for a slice that is not there."""
