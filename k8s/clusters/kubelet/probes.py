"""Probes: what one asks, and what its answers amount to.

`Verdict` is pure. An answer is taken from the pod's own address, over HTTP or gRPC.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

type Object = dict[str, Any]


@dataclass(slots=True)
class Verdict:
    """Counts answers until enough in a row say the same. `is_good` is None until then."""

    failure_threshold: int
    success_threshold: int
    is_good: bool | None = None
    _last: bool | None = None
    _in_a_row: int = 0

    @classmethod
    def of(cls, probe: Object) -> Verdict:
        return cls(probe.get("failureThreshold", 3), probe.get("successThreshold", 1))

    def take(self, answer: bool) -> bool:
        """Count an answer; whether the verdict is another now."""
        self._in_a_row = self._in_a_row + 1 if answer is self._last else 1
        self._last = answer
        needed = self.success_threshold if answer else self.failure_threshold
        if self._in_a_row < needed or answer is self.is_good:
            return False
        self.is_good = answer
        return True


def port_of(container: Object, named: int | str) -> int:
    """A probe's port: a number, or the name of one of the container's ports."""
    if isinstance(named, int):
        return named
    [port] = [one["containerPort"] for one in container["ports"] if one.get("name") == named]
    return int(port)


async def ask(probe: Object, container: Object, address: str) -> bool:
    """Whether the container passes the probe now."""
    seconds = float(probe.get("timeoutSeconds", 1))
    if get := probe.get("httpGet"):
        host = get.get("host", address)
        scheme = get.get("scheme", "HTTP").lower()
        url = f"{scheme}://{host}:{port_of(container, get['port'])}{get.get('path', '/')}"
        headers = {one["name"]: one["value"] for one in get.get("httpHeaders", ())}
        return await _ask_http(url, headers, seconds)
    if call := probe.get("grpc"):
        return await _ask_grpc(f"{address}:{call['port']}", call.get("service", ""), seconds)
    if connect := probe.get("tcpSocket"):
        return await _ask_tcp(address, port_of(container, connect["port"]), seconds)
    raise ValueError(f"the lab's kubelet has no probe {', '.join(probe)}")


async def _ask_http(url: str, headers: dict[str, str], seconds: float) -> bool:
    """A redirection counts as success, as for a kubelet. Nothing is verified."""
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=seconds, verify=False) as http:
            async with asyncio.timeout(seconds):
                answer = await http.get(url, headers={"user-agent": "kube-probe/lab"} | headers)
    except (httpx.HTTPError, TimeoutError):
        return False
    return 200 <= answer.status_code < 400


async def _ask_grpc(address: str, service: str, seconds: float) -> bool:
    request = health_pb2.HealthCheckRequest(service=service)
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=seconds)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _ask_tcp(address: str, port: int, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
