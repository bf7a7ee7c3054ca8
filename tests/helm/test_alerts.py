"""Each alert as Prometheus evaluates it: on series that must fire it, and on ones that must not."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import NamedTuple

import pytest
import yaml

from tests.helm.charts import BASE, GATEWAY, HELM, find, merged, render

PROMTOOL = shutil.which("promtool")
# Minutes of samples, one per minute. A rate over a longer window is that of the minutes there are.
ALWAYS = 75
RELEASE = 'helm_release="prod"'
OF_POD = {"helm_release": "prod", "pod": "a"}


class Case(NamedTuple):
    """Series by name with their samples in Prometheus' notation, and the labels of the alert."""

    fires: dict[str, str]
    rests: dict[str, str]
    labels: dict[str, str]


def counted(*phases):
    """A counter's samples after phases of (minutes, growth per minute)."""
    samples = [0]
    for minutes, growth in phases:
        samples += [samples[-1] + growth * (i + 1) for i in range(minutes)]
    return " ".join(map(str, samples))


def state(value, release=RELEASE):
    return {f'antipode_server_state{{{release}, state="ready"}}': f"{value}x{ALWAYS}"}


def of_pod(name, samples, more=""):
    return {f'{name}{{{RELEASE}, pod="a"{more}}}': samples}


def requests(*phases):
    """Phases of (minutes, requests that fail of 100 per minute)."""
    name = f"antipode_requests_total{{{RELEASE}, outcome="
    return {
        f'{name}"stop"}}': counted(*((minutes, 100 - failed) for minutes, failed in phases)),
        f'{name}"internal"}}': counted(*phases),
        # What clients do wrong spends nothing, nor does another release.
        f'{name}"invalid_request"}}': counted((ALWAYS, 0)),
        'antipode_requests_total{helm_release="other", outcome="internal"}': counted((ALWAYS, 99)),
    }


def first_tokens(late):
    """That many late ones of 100 per minute."""
    name = "antipode_time_to_first_token_seconds"
    return {
        f'{name}_bucket{{{RELEASE}, le="2.5"}}': counted((ALWAYS, 100 - late)),
        f'{name}_bucket{{{RELEASE}, le="5.0"}}': counted((ALWAYS, 100)),
        f"{name}_count{{{RELEASE}}}": counted((ALWAYS, 100)),
    }


def versions(*serving):
    return {
        "antipode_model_version_serving"
        f'{{namespace="llm", helm_release="antipode", cluster="{cluster}", version="{version}"}}': (
            f"1x{ALWAYS}"
        )
        for cluster, version in serving
    }


SWAPS, COMPILED = "antipode_model_swaps_total", "antipode_compilations_after_ready_total"
FAILED, ROLLED_BACK = ', result="failed"', ', result="rolled_back"'
PICKER = f'up{{{RELEASE}, component="http-picker", pod="%s"}}'
CASES = {
    "AntipodeNoReadyReplica": Case(fires=state(0), rests=state(1), labels={}),
    "AntipodeQueueGrows": Case(
        fires=of_pod("antipode_num_requests_waiting", f"17x{ALWAYS}"),
        rests=of_pod("antipode_num_requests_waiting", f"17x{ALWAYS - 4} 0 17 17 17"),
        labels=OF_POD,
    ),
    "AntipodeSwapFailed": Case(
        fires=of_pod(SWAPS, f"0x{ALWAYS - 5} 1x5", FAILED),
        rests=of_pod(SWAPS, f"0x{ALWAYS - 5} 1x5", ROLLED_BACK),
        labels={**OF_POD, "result": "failed"},
    ),
    "AntipodeModelConfigRefused": Case(
        fires=of_pod("antipode_model_config_followed", f"0x{ALWAYS}"),
        rests=of_pod("antipode_model_config_followed", f"1x{ALWAYS - 2} 0 0"),
        labels=OF_POD,
    ),
    "AntipodeCompiledAfterReady": Case(
        fires=of_pod(COMPILED, f"0x{ALWAYS - 30} 1x30"),
        rests=of_pod(COMPILED, f"0x{ALWAYS - 65} 1x65"),
        labels=OF_POD,
    ),
    # An error budget of 0.5 percent: 14.4 times is 7.2 percent, 6 times is 3.
    "AntipodeErrorBudgetBurnsFast": Case(
        fires=requests((ALWAYS, 8)), rests=requests((ALWAYS, 7)), labels={}
    ),
    "AntipodeErrorBudgetBurnsSlowly": Case(
        fires=requests((ALWAYS, 4)), rests=requests((ALWAYS, 3)), labels={}
    ),
    # A budget of 5 percent: 14.4 times is 72 percent, 6 times is 30.
    "AntipodeFirstTokenBudgetBurnsFast": Case(
        fires=first_tokens(73), rests=first_tokens(71), labels={}
    ),
    "AntipodeFirstTokenBudgetBurnsSlowly": Case(
        fires=first_tokens(31), rests=first_tokens(29), labels={}
    ),
    "AntipodePickerDown": Case(
        fires={PICKER % "a": f"1x{ALWAYS}", PICKER % "b": f"0x{ALWAYS}"},
        rests={PICKER % "a": f"1x{ALWAYS}", PICKER % "b": f"1x{ALWAYS}"},
        labels={},
    ),
    "AntipodeRegionsServeDifferentVersions": Case(
        fires=versions(("eu", "1"), ("us", "2")),
        rests=versions(("eu", "2"), ("us", "2")),
        labels={},
    ),
}


def groups(changes=None):
    """The rules of both charts, as a file for Prometheus, evaluated once a minute."""
    within = find(render("antipode", merged(BASE, changes or {})), "Rules")["spec"]["groups"]
    across = find(render("antipode-gateway", GATEWAY), "GlobalRules")["spec"]["groups"]
    rules = [rule for group in (*within, *across) for rule in group["rules"]]
    return {"groups": [{"name": "antipode", "rules": rules}]}


@pytest.fixture(scope="module")
def rules():
    return {rule["alert"]: rule for group in groups()["groups"] for rule in group["rules"]}


def case_of(series, alert, minutes, expected):
    """A test in promtool's own form."""
    return {
        "name": alert,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"alertname": alert, "eval_time": f"{minutes}m", "exp_alerts": expected}
        ],
    }


def promtool(folder, tests, rules_of=None):
    """What promtool says of the tests; "" if all pass."""
    if not PROMTOOL:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules_of or groups()))
    # JSON is YAML too, and keeps long samples in a line.
    (folder / "tests.yaml").write_text(json.dumps({"rule_files": ["rules.yaml"], "tests": tests}))
    run = subprocess.run(
        [PROMTOOL, "test", "rules", "tests.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if run.returncode == 0 else run.stdout + run.stderr


def test_every_alert_has_a_case_and_every_case_an_alert(rules):
    assert CASES.keys() == rules.keys()


def test_each_alert_fires_when_it_must_and_only_then(rules, tmp_path):
    tests = []
    for alert, case in CASES.items():
        labels = {**rules[alert]["labels"], **case.labels}
        expected = [{"exp_labels": labels, "exp_annotations": rules[alert]["annotations"]}]
        tests.append(case_of(case.fires, alert, ALWAYS, expected))
        tests.append(case_of(case.rests, alert, ALWAYS, []))
    assert promtool(tmp_path, tests) == ""


@pytest.mark.parametrize(
    "phases",
    [
        pytest.param([(ALWAYS - 40, 8), (40, 0)], id="what is over"),
        pytest.param([(ALWAYS - 5, 0), (5, 8)], id="what has just begun"),
    ],
)
def test_a_budget_that_burns_in_one_window_only_fires_nothing(tmp_path, phases):
    alerts = ("AntipodeErrorBudgetBurnsFast", "AntipodeErrorBudgetBurnsSlowly")
    tests = [case_of(requests(*phases), alert, ALWAYS, []) for alert in alerts]
    assert promtool(tmp_path, tests) == ""


def test_no_pod_at_all_is_no_ready_replica(rules, tmp_path):
    alert = "AntipodeNoReadyReplica"
    expected = [
        {"exp_labels": rules[alert]["labels"], "exp_annotations": rules[alert]["annotations"]}
    ]
    assert promtool(tmp_path, [case_of({}, alert, 5, expected)]) == ""


def test_a_rule_that_is_wrong_is_seen(tmp_path):
    wrong = groups()
    for group in wrong["groups"]:
        for rule in group["rules"]:
            rule["expr"] = rule["expr"].replace("> 14.4 * 0.005", "> 6 * 0.005")
    alert = "AntipodeErrorBudgetBurnsFast"
    assert alert in promtool(tmp_path, [case_of(CASES[alert].rests, alert, ALWAYS, [])], wrong)


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        ({"monitoring.objectives.successPercent": 100}, "ErrorBudget"),
        ({"monitoring.objectives.firstTokenPercent": 100}, "FirstTokenBudget"),
    ],
)
def test_an_objective_of_every_request_is_no_alert(changes, left_out):
    names = {rule["alert"] for group in groups(changes)["groups"] for rule in group["rules"]}
    assert not [name for name in names if left_out in name]


class TestTheExampleOfAlertmanager:
    @pytest.fixture
    def objects(self):
        text = (HELM / "examples" / "alertmanager.yaml").read_text()
        return {one["kind"]: one for one in yaml.safe_load_all(text)}

    @pytest.fixture
    def configuration(self, objects):
        return yaml.safe_load(objects["Secret"]["stringData"]["alertmanager.yaml"])

    def test_the_operator_reads_the_secret(self, objects):
        secret, operator = objects["Secret"]["metadata"], objects["OperatorConfig"]
        assert operator["managedAlertmanager"]["configSecret"] == {
            "name": secret["name"],
            "key": "alertmanager.yaml",
        }
        assert operator["metadata"] == {"name": "config", "namespace": secret["namespace"]}

    def test_every_severity_reaches_somebody(self, configuration, rules):
        receivers = {one["name"] for one in configuration["receivers"]}
        routes = configuration["route"]["routes"]
        matched = {matcher for route in routes for matcher in route["matchers"]}
        severities = {rule["labels"]["severity"] for rule in rules.values()}
        assert matched == {f'severity="{severity}"' for severity in severities}
        assert {route["receiver"] for route in [configuration["route"], *routes]} <= receivers
        assert all(len(receiver) > 1 for receiver in configuration["receivers"])

    def test_alertmanager_itself_takes_it(self, objects, tmp_path):
        amtool = shutil.which("amtool")
        if not amtool:
            pytest.skip("amtool is not installed: apt-get install prometheus-alertmanager")
        path = tmp_path / "alertmanager.yaml"
        path.write_text(objects["Secret"]["stringData"]["alertmanager.yaml"])
        run = subprocess.run(
            [amtool, "check-config", path], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
