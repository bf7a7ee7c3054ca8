"""Who calls, what a caller's key allows, and what is recorded of each call."""
