"""Load reports out of band."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from server.api.orca.servicer import interval_seconds
from server.link.frames import Pulse
from server.link.status import EngineLoad
from server.pb.xds.service.orca.v3 import orca_pb2 as pb
from server.pb.xds.service.orca.v3.orca_pb2_grpc import OpenRcaServiceStub
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import failure, serving


def asking(seconds: float) -> pb.OrcaLoadReportRequest:
    interval = Duration()
    interval.FromNanoseconds(int(seconds * 1e9))
    return pb.OrcaLoadReportRequest(report_interval=interval)


@pytest.mark.parametrize(
    ("asked", "interval"), [(2.5, 2.5), (0, 1), (0.2, 1), (-3, 1), (10**9, 3600)]
)
def test_the_asked_interval_is_kept_within_bounds(asked, interval):
    assert interval_seconds(asking(asked), least_seconds=1) == interval


def test_an_unset_interval_is_the_shortest():
    assert interval_seconds(pb.OrcaLoadReportRequest(), least_seconds=1) == 1


async def test_a_report_comes_at_once_and_again_with_the_newest_load():
    engine = FakeEngine()
    engine.pulse = Pulse(state="ready", load=EngineLoad(num_waiting=1))
    async with serving(engine, load_report_min_interval_seconds=0.1) as s:
        call = OpenRcaServiceStub(s.channel).StreamCoreMetrics(asking(0))
        first = await call.read()
        again = await call.read()
        engine.pulse = Pulse(state="ready", load=EngineLoad(num_waiting=2))
        async with asyncio.timeout(5):
            while (third := await call.read()) == again:
                pass
        call.cancel()
    assert first == again
    assert [r.named_metrics["num_requests_waiting"] for r in (first, third)] == [1, 2]
    assert not first.request_cost


async def test_an_engine_that_starts_has_no_load():
    async with serving(FakeEngine()) as s:
        error = await failure(OpenRcaServiceStub(s.channel).StreamCoreMetrics(asking(1)))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
