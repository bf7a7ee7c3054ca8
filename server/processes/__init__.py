"""The processes of a server, and how each is put together: the composition roots."""
