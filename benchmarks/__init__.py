"""Measurements. Each is printed next to a limit, from the same machine and the same run."""
