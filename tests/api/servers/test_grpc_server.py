import asyncio
import contextlib

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from server.api.grpc.lifetime import GrpcServer
from server.api.servers.grpc_server import create_grpc_server
from server.api.tokenizers.tokenizer import Tokenizer
from server.config.server_config import ServerConfig
from server.lifecycle import Lifecycle
from server.pb.antipode.v1 import generation_pb2 as pb
from server.pb.antipode.v1.generation_pb2_grpc import GenerationStub
from tests.api.fakes import FakeEngine, make_health, make_service, small_pretrained
from tests.api.grpc.serving import collect, failure, ids, reserved_port, serving, until

EOS = 262
SERVICES = [
    "antipode.v1.Generation",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
    "vllm.grpc.engine.VllmEngine",
    "xds.service.orca.v3.OpenRcaService",
]
# What charts of vLLM's gRPC server ask the standard health service for.
VLLM_HEALTH = "/vllm.grpc.engine.VllmEngine/HealthCheck"
REQUEST = pb.GenerateRequest(text="x")
SETTINGS, PING, GOAWAY = 4, 6, 7
NO_LIMIT = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


async def status_of(channel: grpc.aio.Channel, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return (await health_pb2_grpc.HealthStub(channel).Check(request)).status


def http2_frame(kind: int, payload: bytes) -> bytes:
    """A frame without flags on stream 0."""
    return len(payload).to_bytes(3, "big") + bytes([kind]) + bytes(5) + payload


async def next_frame_kind(reader: asyncio.StreamReader) -> int:
    header = await reader.readexactly(9)
    await reader.readexactly(int.from_bytes(header[:3], "big"))
    return header[3]


async def until_refused(address: str) -> None:
    """Wait until nobody listens there any more."""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                # A connection that the listener had not accepted when it closed is reset.
                with contextlib.suppress(ConnectionResetError):
                    _, writer = await asyncio.open_connection(*address.split(":"))
                    writer.close()
                await asyncio.sleep(0.005)


def small_server(config: ServerConfig) -> GrpcServer:
    engine, tokenizer = FakeEngine([[EOS]]), Tokenizer(small_pretrained())
    lifecycle = Lifecycle()
    lifecycle.mark_ready()
    service, health = make_service(engine, tokenizer, lifecycle), make_health(engine, lifecycle)
    return create_grpc_server(service, health, config)


class TestHealth:
    @pytest.mark.parametrize("service", ["", VLLM_HEALTH, *SERVICES])
    async def test_serving_means_ready(self, service):
        async with serving(FakeEngine()) as s:
            assert await status_of(s.channel, service) == health_pb2.HealthCheckResponse.SERVING
            s.lifecycle.begin_drain()
            assert await status_of(s.channel, service) == (
                health_pb2.HealthCheckResponse.NOT_SERVING
            )

    async def test_an_engine_that_hangs_is_not_serving(self):
        engine = FakeEngine()
        async with serving(engine) as s:
            engine.pulse_age = 31.0
            assert await status_of(s.channel) == health_pb2.HealthCheckResponse.NOT_SERVING


class TestReflection:
    async def test_lists_every_service_of_the_contract(self):
        async with serving(FakeEngine()) as s:
            stream = reflection_pb2_grpc.ServerReflectionStub(s.channel).ServerReflectionInfo()
            await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            response = await stream.read()
        assert [service.name for service in response.list_services_response.service] == SERVICES


class TestSizes:
    async def test_a_message_well_over_grpc_s_own_limit_is_taken(self):
        """That the service then refuses it for its length says that it arrived."""
        async with serving(FakeEngine(), channel_options=NO_LIMIT) as s:
            text = "a" * (7 << 20)
            error = await failure(s.stub.Generate(pb.GenerateRequest(text=text)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "context" in error.details()

    async def test_one_over_the_limit_is_refused_and_the_server_stays_up(self):
        async with serving(FakeEngine(), channel_options=NO_LIMIT, max_body_bytes=1 << 20) as s:
            error = await failure(s.stub.Tokenize(pb.TokenizeRequest(text="a" * (2 << 20))))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            await s.stub.Tokenize(pb.TokenizeRequest(text="a"))

    async def test_a_message_that_grows_over_the_limit_is_refused_and_a_small_one_read(self):
        """32 MB, which arrive as 32 KB."""
        async with serving(FakeEngine(), channel_options=NO_LIMIT, max_body_bytes=1 << 20) as s:
            small, bomb = (pb.TokenizeRequest(text="a" * size) for size in (1, 32 << 20))
            zipped = grpc.Compression.Gzip
            error = await failure(s.stub.Tokenize(bomb, compression=zipped))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await s.stub.Tokenize(small, compression=zipped)).token_ids

    async def test_the_limit_is_8_mib_unless_set(self):
        assert ServerConfig().max_body_bytes == 8 << 20


class TestPort:
    async def test_several_servers_share_it(self):
        with reserved_port() as port:
            config = ServerConfig(host="127.0.0.1", grpc_port=port)
            servers = [small_server(config) for _ in range(2)]
            for server in servers:
                await server.start()
            await servers[0].stop(0)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = GenerationStub(channel).Generate(REQUEST)
                assert await collect(call)
            await servers[1].stop(0)

    async def test_an_ipv6_host_needs_no_brackets(self):
        with reserved_port() as port:
            server = small_server(ServerConfig(host="::1", grpc_port=port))
            await server.start()
            async with grpc.aio.insecure_channel(f"[::1]:{port}") as channel:
                assert await status_of(channel) == health_pb2.HealthCheckResponse.SERVING
            await server.stop(0)

    async def test_a_host_that_is_not_ours_cannot_be_bound(self):
        with pytest.raises(RuntimeError):
            small_server(ServerConfig(host="192.0.2.1", grpc_port=1))


async def test_pings_do_not_end_a_connection():
    """What keeps a connection alive through a long prefill; grpc's own limit is two in ten minutes.

    Spoken by hand, since a grpc client keeps to limits of its own.
    """
    async with serving(FakeEngine()) as s:
        reader, writer = await asyncio.open_connection(*s.address.split(":"))
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2_frame(SETTINGS, b""))
        for _ in range(10):
            writer.write(http2_frame(PING, b"12345678"))
            while (kind := await next_frame_kind(reader)) != PING:
                assert kind != GOAWAY
        writer.close()
        await writer.wait_closed()


async def test_a_connection_too_many_is_closed_and_another_may_come_after_one_has_left():
    with reserved_port() as port:
        server = small_server(ServerConfig(grpc_port=port, max_connections=2))
        await server.start()

        async def connect() -> asyncio.StreamWriter | None:
            """None if the server closes the connection in place of its first frame."""
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2_frame(SETTINGS, b""))
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await next_frame_kind(reader)
                return writer
            writer.close()
            return None

        first, second = await connect(), await connect()
        assert first is not None
        assert second is not None
        assert await connect() is None
        first.close()
        async with asyncio.timeout(60):
            while (next_one := await connect()) is None:
                pass
        for writer in (second, next_one):
            writer.close()
            await writer.wait_closed()
        await server.stop(0)


async def test_many_streams_at_once_each_get_their_own_answer():
    engine = FakeEngine([[token_id] for token_id in [*ids("abcdefgh"), EOS]])
    async with serving(engine) as s:
        calls = [s.stub.Generate(REQUEST) for _ in range(64)]
        answers = await asyncio.gather(*map(collect, calls))
        assert s.lifecycle.num_in_flight == 0
    assert {"".join(r.text for r in responses) for responses in answers} == {"abcdefgh"}
    assert not engine.aborted


class TestStop:
    async def test_a_running_stream_may_finish_within_the_grace(self):
        engine = FakeEngine(None)
        async with serving(engine) as s:
            call = s.stub.Generate(REQUEST)
            await until(lambda: engine.submitted)
            stopping = asyncio.create_task(s.server.stop(5))
            engine.emit([*ids("a"), EOS], finish_reason="stop")
            responses = await collect(call)
            await stopping
        assert responses[-1].finish_reason == pb.FINISH_REASON_STOP

    async def test_no_longer_accepting_leaves_running_calls_alone_and_sends_new_ones_away(self):
        engine = FakeEngine(None)
        async with serving(engine) as s:
            call = s.stub.Generate(REQUEST)
            await until(lambda: engine.submitted)
            s.server.stop_accepting()
            await until_refused(s.address)
            error = await failure(s.stub.Generate(REQUEST))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            engine.emit([*ids("a"), EOS], finish_reason="stop")
            responses = await collect(call)
        assert responses[-1].finish_reason == pb.FINISH_REASON_STOP

    async def test_a_health_watch_does_not_outlast_the_grace(self):
        async with serving(FakeEngine()) as s:
            stub = health_pb2_grpc.HealthStub(s.channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            await watch.read()
            s.server.stop_accepting()
            await asyncio.wait_for(s.server.stop(0.1), timeout=5)
            error = await failure(watch)
        assert error.code() is grpc.StatusCode.UNAVAILABLE

    async def test_a_call_that_runs_at_the_end_is_aborted(self):
        engine = FakeEngine(None)
        async with serving(engine) as s:
            call = s.stub.Generate(REQUEST)
            await until(lambda: engine.submitted)
            await s.server.stop(0)
            await until(lambda: engine.aborted and not engine.open)
            assert (await failure(call)).code() is grpc.StatusCode.UNAVAILABLE
