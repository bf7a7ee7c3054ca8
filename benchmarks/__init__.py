"""Measurements, each printed beside a limit computed on the same machine in the same run."""
