"""The Antipode server."""

import os

# gRPC's core writes to standard error by itself, in its own form, a line for each bad handshake
# of whoever reaches the port. It reads this where it is imported first, so it is set before that.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
