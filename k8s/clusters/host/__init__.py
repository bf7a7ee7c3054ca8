"""What the lab stands on: namespaces of this machine, programs, and a client of API servers."""
