"""gRPC mechanics that no service owns: statuses, health, reflection, the server object."""
