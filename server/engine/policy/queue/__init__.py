"""Who waits, in which order, and how fast it goes."""
