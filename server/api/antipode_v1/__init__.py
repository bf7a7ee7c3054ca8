"""The gRPC services of antipode.v1: messages to the service and back."""
