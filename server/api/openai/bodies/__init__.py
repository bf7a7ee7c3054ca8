"""What clients send and get, and how fields of other servers are read."""
