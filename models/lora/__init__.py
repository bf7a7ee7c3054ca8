"""Reads low-rank adapters in PEFT's layout into the arrays of one slot."""
