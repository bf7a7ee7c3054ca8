"""However a run of the lab ends: with a report of what was finished, and without a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from k8s.lab import __main__ as command
from k8s.lab.chart_numbers import Numbers
from k8s.lab.proxy import Address
from k8s.lab.run import Lab
from tests.e2e.servers import plain_environment

ARGUMENTS = (
    "--scenario=kill",
    "--replicas=1",
    "--rate=10",
    "--streams=2",
    "--stream-tokens=50",
)


def processes_with(mark: str) -> list[int]:
    """Those that inherited the variable."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGTERM, "starting europe-west4-0"), (signal.SIGINT, "kill         1 s")],
    ids=["SIGTERM while it starts", "Ctrl-C under load"],
)
def test_a_signal_leaves_no_process(tmp_path, number, moment):
    mark = f"lab-{uuid.uuid4()}"
    lab = subprocess.Popen(
        [sys.executable, "-m", "k8s.lab", *ARGUMENTS, "--output", tmp_path],
        stderr=subprocess.PIPE,
        text=True,
        env=plain_environment() | {"LAB_MARK": mark},
    )
    with lab:
        assert any(line.startswith(moment) for line in lab.stderr)
        assert len(processes_with(mark)) > 3
        lab.send_signal(number)
        assert lab.wait(30) == command.INTERRUPTED
    deadline = time.monotonic() + 10
    while (left := processes_with(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


class FakeFleet:
    """Cannot be made whole again, which the real one says like this."""

    async def restore(self):
        raise TimeoutError("us-east5-0 did not start")

    def end(self):
        pass


class FakeProxy:
    def stop(self):
        pass


async def open_fake(*arguments, **options):
    return Lab(FakeFleet(), FakeProxy(), Numbers.from_charts(), {}, Address(1, 2))


def test_a_scenario_that_raised_is_reported_beside_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(Lab, "open", open_fake)
    monkeypatch.setattr(command, "write_picture", lambda page: None)
    arguments = ["lab", "--scenario", "kill", "--scenario", "freeze", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert command.main() == 1
    report = json.loads((tmp_path / "report.json").read_text())
    promise = "it did not finish: TimeoutError: us-east5-0 did not start"
    assert [one["broken_promises"] for one in report["scenarios"]] == [[promise]] * 2
    assert "2 of 2 scenarios broke a promise" in (tmp_path / "index.html").read_text()
