"""Fields of other servers: what each means here, and how a body that has them is read."""
