"""What listens on each port: the routes and services of it, put together."""
