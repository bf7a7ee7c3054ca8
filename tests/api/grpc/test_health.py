import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.api.grpc.health import add_health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class FakeReadiness:
    def __init__(self) -> None:
        self.ok = True


@asynccontextmanager
async def health_stub(is_ready: Callable[[], bool]):
    server = grpc.aio.server()
    add_health(server, is_ready, ["antipode.v1.Generation"])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)
    await server.stop(None)


async def check(stub: health_pb2_grpc.HealthStub, service: str = "") -> int:
    response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return response.status


@pytest.mark.parametrize("service", ["", "antipode.v1.Generation"])
async def test_check_follows_readiness_at_once(service):
    readiness = FakeReadiness()
    async with health_stub(lambda: readiness.ok) as stub:
        assert await check(stub, service) == SERVING
        readiness.ok = False
        assert await check(stub, service) == NOT_SERVING
        readiness.ok = True
        assert await check(stub, service) == SERVING


@pytest.mark.parametrize(
    "service", ["antipode.v1.Nothing", "/vllm.grpc.engine.VllmEngine/HealthCheck"]
)
async def test_check_of_an_unknown_service_is_not_found(service):
    async with health_stub(lambda: True) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await check(stub, service)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_list_has_every_service():
    async with health_stub(lambda: False) as stub:
        response = await stub.List(health_pb2.HealthListRequest())
    assert {name: entry.status for name, entry in response.statuses.items()} == {
        "": NOT_SERVING,
        "antipode.v1.Generation": NOT_SERVING,
    }


async def test_watch_tells_the_status_and_each_change():
    readiness = FakeReadiness()
    readiness.ok = False
    async with health_stub(lambda: readiness.ok) as stub:
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="antipode.v1.Generation"))
        told = []
        for ok in (True, False, True):
            told.append((await watch.read()).status)
            readiness.ok = ok
        told.append((await watch.read()).status)
        watch.cancel()
    assert told == [NOT_SERVING, SERVING, NOT_SERVING, SERVING]


async def test_watch_of_an_unknown_service_goes_on_with_service_unknown():
    async with health_stub(lambda: True) as stub:
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="antipode.v1.Nothing"))
        assert (await watch.read()).status == SERVICE_UNKNOWN
        assert not watch.done()
        watch.cancel()


async def test_watches_end_with_the_server():
    server = grpc.aio.server()
    add_health(server, lambda: True, [])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        await asyncio.wait_for(server.stop(0.1), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError):
            await watch.read()
