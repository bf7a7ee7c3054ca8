"""The socket between API processes and the engine process: frames, and both ends."""
