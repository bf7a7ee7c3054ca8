"""A checkpoint where it lies: its files, their checksums, and reading them within bounds."""
