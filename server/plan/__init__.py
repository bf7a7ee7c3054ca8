"""Checks a model without a TPU: compiles the server's own programs for a slice that is not here."""
