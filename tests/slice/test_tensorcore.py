"""The SDK in a child, with stand-ins for the child or for the SDK inside it."""

from __future__ import annotations

import logging
import sys
import threading
import time

import pytest

from server.slice.tensorcore import COMMAND, TensorCoreReader

FAKE_SDK = """
class tpumonitoring:
    def get_metric(name):
        assert name == "tensorcore_util"
        return tpumonitoring
    def data():
        return ["12.50", "0.00"]
"""


def child(program):
    """A command whose process runs the program."""
    return (sys.executable, "-c", program)


def test_utilization_is_what_the_sdk_reports_in_percent_of_each_core(tmp_path, monkeypatch):
    package = tmp_path / "libtpu"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "sdk.py").write_text(FAKE_SDK)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:.")
    assert TensorCoreReader(COMMAND).utilizations() == {0: 0.125, 1: 0.0}


@pytest.mark.parametrize(
    "program",
    [
        "",
        "raise ImportError",
        "print('[]]')",
        "print('3')",
        "print('[null]')",
        "print({})",
    ],
)
def test_what_is_no_answer_is_nothing_known(program):
    assert TensorCoreReader(child(program)).utilizations() == {}


def test_a_call_that_blocks_is_ended_after_the_timeout():
    started = time.monotonic()
    reader = TensorCoreReader(child("import time; time.sleep(60)"), timeout=0.3)
    assert reader.utilizations() == {}
    assert time.monotonic() - started < 10


def test_closing_ends_a_read_that_is_under_way_and_allows_no_other(caplog):
    reader = TensorCoreReader(child("import time; time.sleep(60)"), timeout=60)
    answers = []
    reading = threading.Thread(target=lambda: answers.append(reader.utilizations()))
    reading.start()
    time.sleep(0.2)
    reader.close()
    reading.join(10)
    assert answers == [{}]
    assert reader.utilizations() == {}
    assert not caplog.records


def test_silence_is_said_once(caplog):
    caplog.set_level(logging.WARNING)
    reader = TensorCoreReader(child("print('nothing')"))
    reader.utilizations()
    reader.utilizations()
    assert len(caplog.records) == 1
