"""What runs on one host: weights, state, compiled programs, and host memory beside them."""
