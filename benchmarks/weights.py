"""How closely Envoy's shares follow the load reports of two servers, by each carrier of reports.

Two servers of unequal size stand behind Envoy's client_side_weighted_round_robin, and one of them
has load of its own. The benchmark reads both servers' reports out of band, computes the weights as
Envoy does, and compares the share that the weights ask for with the share that Envoy gave.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx

from k8s.lab.ports import HOST, free_ports
from server.pb.inference import open_inference_pb2 as oip
from server.pb.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from server.pb.xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport
from server.pb.xds.service.orca.v3.orca_pb2 import OrcaLoadReportRequest
from server.pb.xds.service.orca.v3.orca_pb2_grpc import OpenRcaServiceStub

ENVOY = Path(".cache/envoy/bin/envoy")
SLOTS = (32, 8)
_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_POLICY = "client_side_weighted_round_robin"
_SETTLE_SECONDS = 8.0
_START_SECONDS = 300.0
_CLIENTS = 6
_OWN_STREAMS = 2

type Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Server:
    http: int
    grpc: int


@dataclass(slots=True)
class Tally:
    """Requests of one run, and the share of the first server that the weights asked for."""

    expected: float = 0.0
    count: int = 0
    weights: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(self) -> None:
        """Count a request at the weights of this moment."""
        self.count += 1
        self.expected += self.weights[0] / sum(self.weights) if sum(self.weights) else 0.5


def weight(report: OrcaLoadReport) -> float:
    """As Envoy: requests per second by utilization, with errors added to it."""
    rps, utilization = report.rps_fractional, report.application_utilization
    penalty = report.eps / rps if rps else 0.0
    return rps / (utilization + penalty) if rps and utilization else 0.0


def configuration(servers: list[Server], port: int, admin: int, *, carrier: str) -> Json:
    """Envoy in front of both servers; with the carrier `header` over HTTP/1, else over HTTP/2."""
    policy: Json = {
        "@type": f"{_EXTENSIONS}.load_balancing_policies.{_POLICY}.v3.ClientSideWeightedRoundRobin",
        "blackout_period": "1s",
        "weight_update_period": "0.5s",
    }
    if carrier == "out of band":
        policy |= {"enable_oob_load_report": True, "oob_reporting_period": "1s"}
    is_http = carrier == "header"
    ports = [server.http if is_http else server.grpc for server in servers]
    cluster: Json = {
        "name": "servers",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_balancing_policy": {
            "policies": [
                {
                    "typed_extension_config": {
                        "name": f"envoy.load_balancing_policies.{_POLICY}",
                        "typed_config": policy,
                    }
                }
            ]
        },
        "load_assignment": {
            "cluster_name": "servers",
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": _socket(each)}} for each in ports]}
            ],
        },
    }
    if not is_http:
        options = f"{_EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"
        cluster["typed_extension_protocol_options"] = {
            options.removeprefix("type.googleapis.com/"): {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return {
        "admin": {"address": _socket(admin)},
        "static_resources": {"listeners": [_listener(port)], "clusters": [cluster]},
    }


def _listener(port: int) -> Json:
    router = f"{_EXTENSIONS}.filters.http.router.v3.Router"
    manager = f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager"
    config = {
        "@type": manager,
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": "servers", "timeout": "0s"}}
                    ],
                }
            ]
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": router}}],
    }
    name = "envoy.filters.network.http_connection_manager"
    return {
        "name": "in",
        "address": _socket(port),
        "filter_chains": [{"filters": [{"name": name, "typed_config": config}]}],
    }


def _socket(port: int) -> Json:
    return {"socket_address": {"address": HOST, "port_value": port}}


async def follow(server: Server, position: int, tally: Tally) -> None:
    """Keep a server's weight up to date by its reports out of band."""
    async with grpc.aio.insecure_channel(f"{HOST}:{server.grpc}") as channel:
        async for report in OpenRcaServiceStub(channel).StreamCoreMetrics(OrcaLoadReportRequest()):
            tally.weights[position] = weight(report)


async def requests(send: Callable[[], Awaitable[object]], tally: Tally, seconds: float) -> None:
    """Send one request after another."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                tally.add()
                await send()
    except TimeoutError:
        return


def over_http(client: httpx.AsyncClient, model: str) -> Callable[[], Awaitable[object]]:
    body = {"model": model, "prompt": "Hello", "max_tokens": 8, "ignore_eos": True}
    return lambda: client.post("/v1/completions", json=body)


def over_grpc(channel: grpc.aio.Channel, model: str) -> Callable[[], Awaitable[object]]:
    message = oip.ModelInferRequest(model_name=model)
    text = oip.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1])
    text.contents.bytes_contents.append(b"Hello")
    message.inputs.append(text)
    message.parameters["max_tokens"].int64_param = 8
    message.parameters["ignore_eos"].bool_param = True
    stub = GRPCInferenceServiceStub(channel)
    return lambda: stub.ModelInfer(message)


async def shares(admin: int) -> dict[int, int]:
    """Requests so far by the port of the server."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://{HOST}:{admin}/clusters?format=json")
    hosts = answer.json()["cluster_statuses"][0]["host_statuses"]
    return {
        host["address"]["socket_address"]["port_value"]: next(
            int(stat.get("value", 0)) for stat in host["stats"] if stat["name"] == "rq_total"
        )
        for host in hosts
    }


async def measure(
    servers: list[Server], model: str, carrier: str, seconds: float, folder: Path
) -> Mapping[str, float]:
    """The shares of one carrier."""
    with free_ports(2) as [port, admin]:
        config = configuration(servers, port, admin, carrier=carrier)
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    command = [str(ENVOY), "-c", str(path), "--use-dynamic-base-id", "-l", "warning"]
    with (folder / "envoy.log").open("wb") as log:
        envoy = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        await wait_ok(f"http://{HOST}:{admin}/ready")
        return await _measure(servers, model, carrier, seconds, port, admin)
    finally:
        envoy.terminate()
        envoy.wait(10)


async def _measure(
    servers: list[Server], model: str, carrier: str, seconds: float, port: int, admin: int
) -> Mapping[str, float]:
    tally = Tally()
    following = [
        asyncio.ensure_future(follow(server, i, tally)) for i, server in enumerate(servers)
    ]
    first = servers[0].http if carrier == "header" else servers[0].grpc
    base = f"http://{HOST}:{port}"
    async with (
        httpx.AsyncClient(base_url=base, trust_env=False, timeout=60) as client,
        httpx.AsyncClient(
            base_url=f"http://{HOST}:{servers[1].http}", trust_env=False, timeout=60
        ) as direct,
        grpc.aio.insecure_channel(f"{HOST}:{port}") as channel,
    ):
        send = over_http(client, model) if carrier == "header" else over_grpc(channel, model)
        own = [
            asyncio.ensure_future(requests(over_http(direct, model), Tally(), seconds + 60))
            for _ in range(_OWN_STREAMS)
        ]
        await asyncio.gather(*(requests(send, tally, _SETTLE_SECONDS) for _ in range(_CLIENTS)))
        tally.count, tally.expected, before = 0, 0.0, await shares(admin)
        await asyncio.gather(*(requests(send, tally, seconds) for _ in range(_CLIENTS)))
        after = await shares(admin)
        for task in (*own, *following):
            task.cancel()
    given = {each: after[each] - before[each] for each in after}
    return {
        "requests": sum(given.values()),
        "asked_percent": 100 * tally.expected / tally.count,
        "given_percent": 100 * given[first] / sum(given.values()),
    }


async def wait_ok(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(_START_SECONDS):
        while True:
            try:
                if (await client.get(url)).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.2)


def start(stack: ExitStack, module: str, model: str, slots: int) -> Server:
    with free_ports(2) as [http, rpc]:
        command = [
            *(sys.executable, "-m", module, "serve", f"--model={model}", f"--host={HOST}"),
            *(f"--http-port={http}", f"--grpc-port={rpc}", f"--max-num-seqs={slots}"),
            *(
                "--load-report-min-interval-seconds=0.2",
                "--max-num-batched-tokens=256",
                "--num-blocks=1024",
            ),
        ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait, 60)
    stack.callback(process.terminate)
    return Server(http, rpc)


async def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.weights", description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument(
        "--module", default="server", help="the program that serves; a test's has no device"
    )
    parser.add_argument("--seconds", type=float, default=20, help="measured for each carrier")
    arguments = parser.parse_args()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        servers = [start(stack, arguments.module, arguments.model, slots) for slots in SLOTS]
        for server in servers:
            await wait_ok(f"http://{HOST}:{server.http}/readyz")
        async with httpx.AsyncClient(trust_env=False) as client:
            models = await client.get(f"http://{HOST}:{servers[0].http}/v1/models")
        model = models.json()["data"][0]["id"]
        for carrier in ("header", "trailer", "out of band"):
            found = await measure(servers, model, carrier, arguments.seconds, Path(folder))
            print(
                f"{carrier}: {found['requests']:.0f} requests; the reports asked for"
                f" {found['asked_percent']:.1f} % on the first server, Envoy gave it"
                f" {found['given_percent']:.1f} %",
                flush=True,
            )


if __name__ == "__main__":
    asyncio.run(main())
