"""Every metric of the server, what each reads, and how it is rendered."""
