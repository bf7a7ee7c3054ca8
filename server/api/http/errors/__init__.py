"""How failures are told over HTTP, by each protocol in its own shape."""
