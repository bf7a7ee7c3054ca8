"""Embeddings without a transport: how a checkpoint wants them made, and who makes them."""
