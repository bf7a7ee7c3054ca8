"""The gRPC translator: antipode.v1, grpc.health.v1 and reflection on one asyncio server."""
