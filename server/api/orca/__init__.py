"""ORCA out of band: the server's load as a stream of reports over gRPC."""
