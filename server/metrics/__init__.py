"""Every metric of the server: the number that each reads, and how each is rendered."""
