"""The kit itself: what it reports, and that its parser is as strict as Envoy's."""

import base64

import pytest

from server.pb.xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport
from tests.conformance.kit import report, rules, run
from tests.conformance.orca_parser import RejectedReportError, parse_header
from tests.conformance.rules import NotApplicableError, Rule, Target, require

TARGET = Target("http://127.0.0.1:1", "", "m")


def a_rule(check):
    return Rule("g", "it holds", "someone", check)


async def keeps(_):
    return "fine"


async def breaks(_):
    require(False, "it was 7")


async def fails(_):
    raise OSError("no route")


async def cannot(_):
    raise NotApplicableError("no pid")


async def test_each_rule_has_an_outcome_and_a_reason():
    results = await run(TARGET, map(a_rule, (keeps, breaks, fails, cannot)))
    assert [r.outcome for r in results] == ["pass", "FAIL", "FAIL", "skip"]
    text = report(results)
    assert "BrokenRuleError: it was 7" in text
    assert text.endswith("1 pass, 2 FAIL, 1 skip")


def test_the_rule_that_ends_the_server_is_the_last():
    assert [one.group for one in rules()].index("drain") == len(rules()) - 1


def test_a_sound_report_is_read_in_every_form():
    message = OrcaLoadReport(eps=0.5, utilization={"slots": 0.25})
    data = base64.b64encode(message.SerializeToString()).decode()
    expected = [("eps", 0.5), ("utilization.slots", 0.25)]
    assert parse_header('JSON {"eps": 0.5, "utilization": {"slots": 0.25}}') == expected
    assert parse_header("TEXT eps=0.5, utilization.slots=0.25") == expected
    assert parse_header(f"BIN {data}") == expected


@pytest.mark.parametrize(
    "header",
    [
        "",
        "json {}",
        "eps=1",
        "JSON {",
        'JSON {"unknown": 1}',
        'JSON {"eps": NaN}',
        'JSON {"eps": "NaN"}',
        'JSON {"eps": -1}',
        'JSON {"eps": 1, "eps": 2}',
        'JSON {"named_metrics": {"a": 1, "a": 1}}',
        'JSON {"named_metrics": {"": 1}}',
        "TEXT eps",
        "TEXT eps=x",
        "TEXT eps=nan",
        "TEXT eps=inf",
        "TEXT eps=-0.5",
        "TEXT eps=1,eps=1",
        "TEXT rps=1",
        "TEXT named_metrics.=1",
        "TEXT request_cost.a=1",
        "BIN !",
        "BIN /w==",
        # Field 15 of the message.
        "BIN eAE=",
    ],
)
def test_one_bad_item_discards_a_report(header):
    with pytest.raises(RejectedReportError):
        parse_header(header)
