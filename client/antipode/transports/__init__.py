"""How requests, events and errors look on the wire: gRPC and HTTP."""
