from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2

from server.api.grpc.reflection import add_reflection
from server.pb.antipode.v1 import generation_pb2 as pb

NAMES = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
GENERATION = pb.DESCRIPTOR.services_by_name["Generation"].full_name


@asynccontextmanager
async def reflection_stream(service_name: str):
    server = grpc.aio.server()
    add_reflection(server, [GENERATION])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.stream_stream(
            f"/{service_name}/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )()
    await server.stop(None)


async def ask(stream, **request: str) -> reflection_pb2.ServerReflectionResponse:
    await stream.write(reflection_pb2.ServerReflectionRequest(**request))
    return await stream.read()


def described(response: reflection_pb2.ServerReflectionResponse) -> descriptor_pool.DescriptorPool:
    """A client's own pool, filled with nothing but what the server sent."""
    pool = descriptor_pool.DescriptorPool()
    for serialized in reversed(response.file_descriptor_response.file_descriptor_proto):
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(serialized))
    return pool


@pytest.mark.parametrize("name", NAMES)
async def test_a_client_can_describe_every_service_it_lists(name):
    async with reflection_stream(name) as stream:
        response = await ask(stream, list_services="")
        listed = [service.name for service in response.list_services_response.service]
        assert listed == [GENERATION, NAMES[1]]
        for service in listed:
            pool = described(await ask(stream, file_containing_symbol=service))
            assert pool.FindServiceByName(service).methods


@pytest.mark.parametrize("name", NAMES)
async def test_the_description_is_the_contract(name):
    async with reflection_stream(name) as stream:
        pool = described(await ask(stream, file_containing_symbol=GENERATION))
    method = pool.FindServiceByName(GENERATION).methods_by_name["Generate"]
    assert method.server_streaming
    fields = pool.FindMessageTypeByName("antipode.v1.GenerateRequest").fields_by_name
    assert {name: field.number for name, field in fields.items()} == {
        name: field.number for name, field in pb.GenerateRequest.DESCRIPTOR.fields_by_name.items()
    }


async def test_an_unknown_symbol_is_an_answer_and_no_end():
    async with reflection_stream(NAMES[0]) as stream:
        response = await ask(stream, file_containing_symbol="antipode.v1.Nothing")
        assert response.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        assert (await ask(stream, list_services="")).HasField("list_services_response")
