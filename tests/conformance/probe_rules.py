"""Rules of those that probe: kubelets, load balancers, and charts that ask by gRPC."""

from __future__ import annotations

import asyncio
import os
import signal

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conformance.calls import channel, completion, http
from tests.conformance.rules import NotApplicableError, Target, require, rule

_NAMES = (
    "",
    "inference.GRPCInferenceService",
    "vllm.grpc.engine.VllmEngine",
    "/vllm.grpc.engine.VllmEngine/HealthCheck",
)
_DRAIN_SECONDS = 60.0
# A server that drains may close a connection just as it is used again, so none is.
_ALONE = {"connection": "close"}


@rule("probes", "/health, /livez and /readyz answer 200 while the server is ready", "GKE's charts")
async def http_probes(target: Target) -> str:
    async with http(target) as client:
        found = {
            path: (await client.get(path)).status_code for path in ("/health", "/livez", "/readyz")
        }
    require(set(found.values()) == {200}, str(found))
    return "200"


@rule("probes", "grpc.health.v1 is SERVING for the names that charts ask for", "GKE's charts")
async def grpc_health(target: Target) -> str:
    async with channel(target) as open_channel:
        stub = health_pb2_grpc.HealthStub(open_channel)
        for name in _NAMES:
            status = (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status
            require(status == health_pb2.HealthCheckResponse.SERVING, f"{name!r}: {status}")
    return ", ".join(map(repr, _NAMES))


@rule(
    "probes", "grpc.health.v1 answers NOT_FOUND for a service that is not there", "grpc.health.v1"
)
async def unknown_service(target: Target) -> str:
    async with channel(target) as open_channel:
        try:
            request = health_pb2.HealthCheckRequest(service="no.such.Service")
            await health_pb2_grpc.HealthStub(open_channel).Check(request)
        except grpc.aio.AioRpcError as error:
            require(error.code() is grpc.StatusCode.NOT_FOUND, error.code().name)
            return "NOT_FOUND"
    raise AssertionError("the check succeeded")


@rule(
    "drain",
    "SIGTERM turns /readyz to 503 first; streams finish, /metrics answers to the end",
    "llm-d",
)
async def drain(target: Target) -> str:
    """The last rule that is checked: it ends the server."""
    if not target.pid:
        raise NotApplicableError("no process id was given (PID=)")
    async with http(target) as client:
        # Long enough that the stream outlasts what is asked beside it, also on a busy machine.
        body = completion(target, max_tokens=500, stream=True, ignore_eos=True)
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            chunks = answer.aiter_raw()
            text = await anext(chunks)
            os.kill(target.pid, signal.SIGTERM)
            async with asyncio.timeout(_DRAIN_SECONDS):
                while (await client.get("/readyz", headers=_ALONE)).status_code == 200:
                    pass
            metrics = (await client.get("/metrics", headers=_ALONE)).status_code
            text += b"".join([chunk async for chunk in chunks])
    require(text.rstrip().endswith(b"[DONE]"), "the stream did not finish")
    require(metrics == 200, f"/metrics answered {metrics} during the drain")
    return "the stream finished"
