"""One HTTP connection: what is read from it, what is written to it, and how many there are."""
