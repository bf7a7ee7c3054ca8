"""What listens on each port: its routes or services, put together."""
