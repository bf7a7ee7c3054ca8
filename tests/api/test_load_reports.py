"""A load report must never be discarded: what strict consumers refuse is never in one."""

import base64
import math

import pytest
from google.protobuf import json_format
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given
from hypothesis import strategies as st

from server.api.load_reports import LoadReports
from server.api.requests.generation import Usage
from server.link.frames import Pulse
from server.link.status import EngineLoad
from server.pb.xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport
from tests.api.fakes import FakeEngine
from tests.conformance.orca_parser import parse_binary, parse_header

LOAD = EngineLoad(
    num_running=6,
    num_waiting=3,
    num_slots=8,
    max_queue_len=12,
    kv_cache_usage=0.25,
    device_busy=0.5,
    requests_per_second=4.5,
    errors_per_second=0.5,
    mean_wanted=9,
)
USAGE = Usage(num_prompt_tokens=7, num_generated_tokens=5, num_cached_tokens=2)


def reports_of(load: EngineLoad | None) -> LoadReports:
    engine = FakeEngine()
    engine.pulse = Pulse(state="ready", load=load)
    return LoadReports(engine)


def test_a_report_says_how_full_the_server_is():
    report = reports_of(LOAD).message()
    assert report.application_utilization == 9 / 8
    assert dict(report.utilization) == {
        "kv_cache": 0.25, "slots": 0.75, "queue": 0.25, "device_busy": 0.5
    }  # fmt: skip
    assert (report.rps_fractional, report.eps) == (4.5, 0.5)
    assert report.named_metrics["num_requests_waiting"] == 3


def test_what_the_platform_does_not_report_is_left_out():
    report = reports_of(LOAD).message()
    assert report.mem_utilization == 0
    assert "tpu_duty_cycle" not in report.utilization


def test_a_chips_use_is_reported_where_it_is_known():
    load = EngineLoad(duty_cycle=0.75, hbm_usage=0.5)
    report = reports_of(load).message()
    assert (report.utilization["tpu_duty_cycle"], report.mem_utilization) == (0.75, 0.5)


def test_a_full_cache_counts_as_much_as_full_slots():
    assert reports_of(EngineLoad(kv_cache_usage=0.9)).message().application_utilization == 0.9


def test_a_requests_cost_is_added_to_the_report():
    report = OrcaLoadReport.FromString(reports_of(LOAD).binary(USAGE))
    assert dict(report.request_cost) == {
        "prompt_tokens": 7, "completion_tokens": 5, "cached_tokens": 2
    }  # fmt: skip
    assert report.application_utilization == 9 / 8


@pytest.mark.parametrize("form", ["json", "text", "bin"])
def test_no_report_exists_before_the_engine_serves(form):
    reports = reports_of(None)
    assert (reports.header(form), reports.binary(), reports.message()) == ("", b"", None)


def test_the_newest_pulse_is_reported():
    engine = FakeEngine()
    reports = LoadReports(engine)
    for waiting in (1, 2):
        engine.pulse = Pulse(state="ready", load=EngineLoad(num_waiting=waiting))
        report = OrcaLoadReport.FromString(reports.binary())
        assert report.named_metrics["num_requests_waiting"] == waiting


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
COUNTS = st.integers(-5, 2**40)
LOADS = st.builds(
    EngineLoad,
    **dict.fromkeys(("num_running", "num_waiting", "num_slots", "max_queue_len"), COUNTS),
    **dict.fromkeys(
        (
            "kv_cache_usage",
            "device_busy",
            "requests_per_second",
            "errors_per_second",
            "tokens_per_second",
            "mean_wanted",
        ),
        NUMBERS,
    ),
    duty_cycle=st.none() | NUMBERS,
    hbm_usage=st.none() | NUMBERS,
)
USAGES = st.none() | st.builds(
    Usage,
    num_prompt_tokens=st.integers(0, 2**31),
    num_generated_tokens=st.integers(0, 2**31),
    num_cached_tokens=st.integers(0, 2**31),
)


@given(LOADS, USAGES)
def test_no_report_is_one_that_a_strict_consumer_discards(load, usage):
    reports = reports_of(load)
    for form in ("json", "text", "bin"):
        parsed = parse_header(reports.header(form, usage))
        assert all(math.isfinite(v) and v >= 0 for _, v in parsed)
    assert parse_binary(reports.binary(usage))
    message = OrcaLoadReport.FromString(reports.binary(usage))
    assert not UnknownFieldSet(message)
    assert all(value <= 1 for value in message.utilization.values())
    assert message.mem_utilization <= 1


@given(LOADS, USAGES)
def test_every_form_says_the_same(load, usage):
    reports = reports_of(load)
    message = OrcaLoadReport.FromString(reports.binary(usage))
    assert base64.b64decode(reports.header("bin", usage).removeprefix("BIN ")) == reports.binary(
        usage
    )
    from_json = json_format.Parse(
        reports.header("json", usage).removeprefix("JSON "), OrcaLoadReport()
    )
    assert from_json == message
    text = dict(parse_header(reports.header("text", usage)))
    message.ClearField("request_cost")
    assert text == dict(parse_binary(message.SerializeToString()))
