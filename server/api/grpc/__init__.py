"""The mechanics of gRPC for every service: statuses, health, reflection, the server object."""
