"""The processes of a server. Each module here builds one process from its parts."""
