from __future__ import annotations

import sys
import threading
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest

from server.slice.chips import ChipMonitor, ChipUse, monitor_of, read_memory
from server.slice.reported_slice import Devices
from server.slice.resolve import Sources, resolve

USE = ChipUse(hbm_used={0: 8}, hbm_limit={0: 32})


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert condition()


@pytest.fixture
def monitor_with():
    monitors = []

    def make(read, interval=0.01, close=lambda: None):
        told = []
        monitors.append(ChipMonitor(read, interval, told.append, close))
        monitors[-1].start()
        return monitors[-1], told

    yield make
    for monitor in monitors:
        monitor.stop()


def slice_of(generation):
    return resolve(Sources(devices=Devices(generation=generation, count=4, chips=4)))


def test_a_monitor_reads_at_its_interval_and_not_at_once(monitor_with):
    times = [time.monotonic()]

    def read():
        times.append(time.monotonic())
        return USE

    _, told = monitor_with(read, interval=0.05)
    wait_for(lambda: len(told) > 2)
    assert all(after - before >= 0.049 for before, after in pairwise(times))
    assert told[0] == USE


def test_a_stopped_monitor_reads_no_more_and_ends_a_read(monitor_with):
    counts, closed = [], threading.Event()
    monitor, _ = monitor_with(lambda: counts.append(1) or USE, close=closed.set)
    wait_for(lambda: counts)
    monitor.stop()
    assert closed.is_set()
    # A thread that has ended reads no more.
    wait_for(lambda: not any(thread.name == "chips" for thread in threading.enumerate()))


def test_a_read_that_does_not_return_holds_up_nobody(monitor_with):
    released = threading.Event()
    monitor, told = monitor_with(lambda: released.wait(10) and USE)
    time.sleep(0.05)
    started = time.monotonic()
    assert told == []
    monitor.stop()
    assert time.monotonic() - started < 5
    released.set()


def test_after_a_read_that_failed_nothing_is_known(monitor_with, caplog):
    answers = iter([USE])
    _, told = monitor_with(lambda: next(answers))
    wait_for(lambda: len(told) > 1)
    assert "chips could not be read" in caplog.text
    assert told[:2] == [USE, ChipUse()]


@pytest.mark.parametrize(
    ("found", "interval"), [(None, 60), (slice_of("cpu"), 60), (slice_of("v6e"), 0)]
)
def test_no_monitor_is_made_where_nothing_can_or_shall_be_read(found, interval):
    assert monitor_of(found, interval, print) is None


@pytest.mark.parametrize("generation", ["v6e", "gpu"])
def test_a_tpu_and_a_gpu_are_monitored(generation):
    monitor = monitor_of(slice_of(generation), 60, print)
    assert monitor is not None
    monitor.stop()


def test_memory_is_what_jax_says_of_each_device(monkeypatch):
    answers = [{"bytes_in_use": 8, "bytes_limit": 32}, {"bytes_in_use": 9, "bytes_limit": 32}, None]
    devices = [SimpleNamespace(memory_stats=lambda stats=stats: stats) for stats in answers]
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(local_devices=lambda: devices))
    assert read_memory() == ChipUse(hbm_used={0: 8, 1: 9}, hbm_limit={0: 32, 1: 32})
