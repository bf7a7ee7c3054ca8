"""Stream over gRPC with modules that grpcio-tools makes from the public .proto file.

An app makes these modules once, with `python -m grpc_tools.protoc`; here they are made at start.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import grpc

SERVER = os.environ.get("ANTIPODE_GRPC", "localhost:9000")
PROTO = Path(__file__).parents[1] / "proto" / "antipode" / "v1"


def main() -> None:
    # gRPC looks for .proto files where Python looks for modules.
    sys.path.insert(0, str(PROTO))
    pb, services = grpc.protos_and_services("generation.proto")

    request = pb.GenerateRequest(
        chat=pb.Chat(
            messages=[pb.ChatMessage(role="user", content="What is the capital of France?")]
        ),
        sampling=pb.Sampling(temperature=0, max_tokens=32),
    )
    with grpc.insecure_channel(SERVER) as channel:
        for response in services.GenerationStub(channel).Generate(request, timeout=60):
            print(response.text, end="", flush=True)
    print(f"\n({response.usage.num_generated_tokens} tokens)")


if __name__ == "__main__":
    main()
