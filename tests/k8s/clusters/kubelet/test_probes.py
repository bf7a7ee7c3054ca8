"""Probes: verdicts, ports, and real answers over HTTP, gRPC and TCP."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from k8s.clusters.kubelet.probes import Verdict, ask, port_of

HOST = "127.0.0.1"


def test_a_verdict_changes_after_enough_answers_in_a_row():
    verdict = Verdict.of({"failureThreshold": 2, "successThreshold": 2})
    answers = [True, True, False, True, False, False, False]
    assert [verdict.take(one) for one in answers] == [False, True, False, False, False, True, False]
    assert verdict.is_good is False


def test_a_probe_succeeds_once_and_fails_thrice_by_default():
    verdict = Verdict.of({})
    assert verdict.take(True)
    assert [verdict.take(False) for _ in range(3)] == [False, False, True]


def test_a_port_is_a_number_or_the_name_of_one():
    container = {"ports": [{"name": "http", "containerPort": 8000}, {"containerPort": 1}]}
    assert port_of(container, "http") == 8000
    assert port_of(container, 9000) == 9000


async def served(head):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    return server, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("head", "passes"),
    [("200 OK", True), ("302 Found", True), ("404 Not Found", False), ("503 No", False)],
)
async def test_an_answer_below_400_passes(head, passes):
    server, port = await served(head)
    async with server:
        probe = {"httpGet": {"path": "/readyz", "port": port}, "timeoutSeconds": 20}
        assert await ask(probe, {}, HOST) is passes


async def test_nobody_at_the_port_fails():
    server, port = await served("200 OK")
    server.close()
    await server.wait_closed()
    assert not await ask({"httpGet": {"port": port}}, {}, HOST)
    assert not await ask({"tcpSocket": {"port": port}}, {}, HOST)


async def test_the_health_service_answers_for_grpc():
    server = grpc.aio.server()
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    serving = health_pb2.HealthCheckResponse.SERVING
    await servicer.set("liveness", serving)
    await servicer.set("readiness", health_pb2.HealthCheckResponse.NOT_SERVING)
    try:
        probe = {"timeoutSeconds": 20, "grpc": {"port": port, "service": "liveness"}}
        assert await ask(probe, {}, HOST)
        probe["grpc"]["service"] = "readiness"
        assert not await ask(probe, {}, HOST)
    finally:
        await server.stop(None)


async def test_a_kind_of_probe_that_the_kubelet_does_not_know_is_named():
    with pytest.raises(ValueError, match="no probe exec"):
        await ask({"exec": {"command": ["true"]}}, {}, HOST)
