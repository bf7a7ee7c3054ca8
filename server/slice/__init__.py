"""Which chips, hosts and network interfaces this server was given."""
