"""The engine: scheduling, batching and the jitted step. Knows nothing of HTTP, gRPC or text."""
