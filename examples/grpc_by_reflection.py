"""Call a server over gRPC without its .proto files: the server describes itself.

The same from a shell, with grpcurl:

    grpcurl -plaintext localhost:9000 list
    grpcurl -plaintext -d '{"text": "Once upon a time", "sampling": {"max_tokens": 16}}' \\
        localhost:9000 antipode.v1.Generation/Generate
"""

from __future__ import annotations

import os

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVER = os.environ.get("ANTIPODE_GRPC", "localhost:9000")


def main() -> None:
    with grpc.insecure_channel(SERVER) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        print("services:", *database.get_services())
        pool = DescriptorPool(database)
        method = pool.FindServiceByName("antipode.v1.Generation").methods_by_name["Generate"]
        generate = channel.unary_stream(
            "/antipode.v1.Generation/Generate",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        options = {"text": "Once upon a time", "sampling": {"max_tokens": 16}}
        request = json_format.ParseDict(options, GetMessageClass(method.input_type)())
        for response in generate(request, timeout=60):
            print(response.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
