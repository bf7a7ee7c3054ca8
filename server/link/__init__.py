"""The socket between the API processes and the engine process: its frames and both ends."""
