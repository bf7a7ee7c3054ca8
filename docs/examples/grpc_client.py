"""Ask a question over gRPC and print the answer as it comes.

    python -m docs.examples.grpc_client localhost:9000 "What is the capital of France?"

Needs grpcio and protobuf only. Elsewhere than in this checkout, make the two modules from
proto/antipode/v1/generation.proto with grpcio-tools, or those of any other language.
"""

from __future__ import annotations

import sys

import grpc

from server.pb.antipode.v1 import generation_pb2 as pb
from server.pb.antipode.v1.generation_pb2_grpc import GenerationStub


def main(address: str = "localhost:9000", question: str = "What is the capital of France?") -> None:
    request = pb.GenerateRequest(
        chat=pb.Chat(messages=[pb.ChatMessage(role="user", content=question)]),
        sampling=pb.Sampling(temperature=0, max_tokens=64),
    )
    with grpc.insecure_channel(address) as channel:
        for response in GenerationStub(channel).Generate(request, timeout=60):
            print(response.text, end="", flush=True)
    print(f"\n({response.usage.num_generated_tokens} tokens)")


if __name__ == "__main__":
    main(*sys.argv[1:])
