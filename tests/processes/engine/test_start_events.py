"""What a serving host does with what it hears of its start and its group."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from server.config.engine_config import EngineConfig
from server.link.frames import Fatal
from server.metrics.metrics import Metrics
from server.processes.engine import start_events
from server.processes.engine.start_events import ServingListener
from server.processes.engine.status import Status
from server.slice.chips import ChipUse
from server.slice.host_group import HostLink


class FakeLink:
    """Keeps what it sends, its end included."""

    def __init__(self):
        self.sent = []

    def broadcast(self, frame):
        self.sent.append(frame)

    def close(self, timeout):
        self.sent.append("closed")


@pytest.fixture
def metrics():
    return Metrics(model="tiny", version="1", release="0")


@pytest.fixture
def status(metrics):
    return Status(metrics)


@pytest.fixture
def link():
    return FakeLink()


@pytest.fixture
def listener(status, metrics, link):
    return ServingListener(status, metrics, link)


def test_progress_is_shown_and_each_stage_logged_once(listener, status, caplog):
    caplog.set_level(logging.INFO)
    for detail, progress in [("loading", 0.1), ("loading", 0.2), ("compiling", 0.3)]:
        listener.on_progress(detail, progress)
    assert status.detail == "compiling"
    assert caplog.messages == ["loading", "compiling"]


def test_hosts_and_their_chips_are_shown(listener, status):
    links = (HostLink(index=1, interface="", address="10.0.0.2"),)
    listener.on_links(links)
    listener.on_chips(1, ChipUse())
    assert (status.host_links, status.chips) == (links, {1: ChipUse()})


def test_a_compilation_counts_as_late_once_the_process_serves(status, link):
    counted = []
    metrics = SimpleNamespace(on_compilation=lambda *, is_ready: counted.append(is_ready))
    listener = ServingListener(status, metrics, link)
    listener.on_compilation()
    runner = SimpleNamespace(num_ranks=1, kinds=(SimpleNamespace(num_blocks=8),), block_size=4)
    status.serve(SimpleNamespace(), SimpleNamespace(), SimpleNamespace(), runner, EngineConfig())
    listener.on_compilation()
    assert counted == [False, True]


def test_a_lost_group_ends_the_process_after_its_last_frame(listener, link, monkeypatch, caplog):
    monkeypatch.setattr(start_events.os, "_exit", link.sent.append)
    monkeypatch.setattr(start_events.logging, "shutdown", lambda: None)
    listener.on_lost("host 1 is gone")
    fatal = Fatal(message="its slice is not whole any more: host 1 is gone")
    assert link.sent == [fatal, "closed", 1]
    assert "host 1 is gone; the server ends on all hosts" in caplog.text


def test_one_host_that_leaves_has_all_drain(listener, monkeypatch):
    asked = []
    monkeypatch.setattr(start_events, "ask_for_drain", lambda: asked.append(True))
    listener.on_leaving(1)
    assert asked
