"""The Antipode server."""
