"""What runs on one host: weights, state, compiled programs, and the host's memory."""
