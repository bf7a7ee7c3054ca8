"""Rules of those that weigh servers by ORCA load reports: Envoy, gRPC clients, load balancers."""

from __future__ import annotations

import asyncio
import time

from google.protobuf.duration_pb2 import Duration

from server.pb.xds.service.orca.v3 import orca_pb2
from server.pb.xds.service.orca.v3.orca_pb2_grpc import OpenRcaServiceStub
from tests.conformance.calls import channel, completion, http
from tests.conformance.http2 import trailers_of
from tests.conformance.orca_parser import Items, parse_binary, parse_header
from tests.conformance.rules import Target, require, rule

_ENVOY = "Envoy's parser of load reports"
_HEADER = "endpoint-load-metrics"
_WEIGHT = ("rps_fractional", "application_utilization")
_TRIES = 100


async def _report(target: Target, form: str = "") -> str:
    headers = {f"{_HEADER}-format": form} if form else {}
    async with http(target) as client:
        answer = await client.post("/v1/completions", json=completion(target), headers=headers)
    require(_HEADER in answer.headers, f"no header {_HEADER}")
    return answer.headers[_HEADER]


async def _weighed(target: Target) -> Items:
    """A report in which earlier requests count, which it does not do at once; or the last one."""
    items = parse_header(await _report(target))
    for _ in range(_TRIES):
        if all(dict(items).get(name, 0) > 0 for name in _WEIGHT):
            break
        await asyncio.sleep(0.1)
        items = parse_header(await _report(target))
    return items


@rule("load", "answers carry a load report that no strict parser discards", _ENVOY)
async def header(target: Target) -> str:
    items = parse_header(await _report(target))
    return f"{len(items)} items"


@rule("load", "the report has what Envoy needs for a weight, after a request", _ENVOY)
async def weight(target: Target) -> str:
    found = dict(await _weighed(target))
    for name in _WEIGHT:
        require(found.get(name, 0) > 0, f"{name} is missing or 0")
    return ", ".join(sorted(found))


@rule("load", "a client may ask for the report as JSON, TEXT or BIN", "vLLM and Triton")
async def forms(target: Target) -> str:
    for form in ("JSON", "TEXT", "BIN"):
        report = await _report(target, form)
        require(report.startswith(f"{form} "), report[:20])
        parse_header(report)
    return "JSON, TEXT, BIN"


@rule("load", "gRPC calls end with the report in a trailer", "gRFC A51, Envoy")
async def trailer(target: Target) -> str:
    if not target.grpc:
        async with channel(target):
            pass
    method = "/inference.GRPCInferenceService/ServerMetadata"
    trailers = await asyncio.to_thread(trailers_of, target.grpc, method, b"")
    data = trailers.get(f"{_HEADER}-bin")
    require(data is not None, f"the trailers are {sorted(trailers)}")
    assert isinstance(data, bytes)
    return f"{len(parse_binary(data))} items"


@rule("load", "the report comes out of band, at once and then by the asked interval", "gRFC A51")
async def out_of_band(target: Target) -> str:
    interval = Duration(seconds=2)
    async with channel(target) as open_channel:
        stub = OpenRcaServiceStub(open_channel)
        begin = time.monotonic()
        call = stub.StreamCoreMetrics(orca_pb2.OrcaLoadReportRequest(report_interval=interval))
        reports, times = [], []
        for _ in range(2):
            reports.append(await call.read())
            times.append(time.monotonic() - begin)
        call.cancel()
    for report in reports:
        require(not report.request_cost, "a report out of band has costs of a request")
        parse_binary(report.SerializeToString())
    # The first may have been read late.
    require(times[1] - times[0] > 1, f"the second report came after {times[1]:.1f} s")
    return f"after {times[0]:.1f} s and {times[1]:.1f} s"
