"""Adapters loaded, replaced, unloaded and followed from the model file, on the manager's thread."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from server.adapters.adapter_folder import WantedAdapter
from server.adapters.manager import AdapterManager
from server.engine.policy.adapter_slots import AdapterSlots
from server.link.frames import AdapterCommand
from server.versions.served_model import ServedModel
from server.versions.version import VersionError

TIMEOUT = 30


class FakeEngine:
    """Runs each change at once, as the step loop does between two steps."""

    def __init__(self):
        self.adapters = AdapterSlots(2)

    def call(self, function):
        future = Future()
        future.set_result(function(self))
        return future


class FakeStore:
    """Reads nothing but whether a folder is there."""

    def __init__(self):
        self.kept = []

    def read(self, files):
        files.names()
        return SimpleNamespace(rank=4, num_bytes=100, is_published=True)

    def keep(self, loaded, adapter):
        self.kept.append(loaded)

    def drop(self, loaded):
        self.kept.remove(loaded)


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def manager(engine, store, tmp_path):
    for folder in ("1", "adapters/sql/1", "adapters/sql/2", "adapters/chat/1"):
        (tmp_path / folder).mkdir(parents=True)
    manager = AdapterManager(engine, store, ServedModel(tmp_path / "1", "tiny", "1"))
    engine.adapters.on_gone = manager.on_gone
    manager.start()
    return manager


def command(manager, action, name, **fields):
    sent = AdapterCommand(command_id=1, action=action, name=name, **fields)
    manager.command(sent).result(TIMEOUT)


def states(manager):
    return {(each.name, each.version): each.state for each in manager.statuses()}


def test_an_adapter_is_loaded_replaced_and_unloaded(manager, engine, store):
    command(manager, "load", "sql", version="1")
    first = engine.adapters.find("sql")
    engine.adapters.begin(first)
    command(manager, "load", "sql")
    assert states(manager) == {("sql", "1"): "UNLOADING", ("sql", "2"): "AVAILABLE"}
    engine.adapters.end(first)
    assert [each.version for each in store.kept] == ["2"]
    command(manager, "unload", "sql")
    assert (states(manager), store.kept) == ({}, [])


def test_what_cannot_be_done_is_answered_with_the_reason(manager):
    with pytest.raises(VersionError, match="adapter none is not loaded: there is no adapter none"):
        command(manager, "load", "none")
    with pytest.raises(VersionError, match="adapter sql is not loaded here") as caught:
        command(manager, "unload", "sql")
    assert caught.value.kind == "not_found"
    command(manager, "load", "sql")
    assert states(manager) == {("sql", "2"): "AVAILABLE"}


def test_the_first_adapters_are_there_before_the_step_loop_runs(engine, store, tmp_path):
    (tmp_path / "adapters/sql/1").mkdir(parents=True)
    manager = AdapterManager(engine, store, ServedModel(tmp_path, "tiny", ""))
    manager.load_first([WantedAdapter("sql")])
    assert engine.adapters.find("sql").version == "1"
    assert states(manager) == {("sql", "1"): "AVAILABLE"}


def test_a_server_without_slots_loads_nothing(engine, tmp_path):
    manager = AdapterManager(engine, None, ServedModel(tmp_path, "tiny", ""))
    with pytest.raises(ValueError, match="start it with --max-loras"):
        manager.load_first([WantedAdapter("sql")])


def test_the_model_file_is_followed_and_leaves_what_commands_loaded(manager):
    command(manager, "load", "chat")
    manager.follow({"sql": "1"}).result(TIMEOUT)
    assert states(manager) == {("chat", "1"): "AVAILABLE", ("sql", "1"): "AVAILABLE"}
    manager.follow({"sql": "latest", "none": "3"}).result(TIMEOUT)
    assert states(manager) == {("chat", "1"): "AVAILABLE", ("sql", "2"): "AVAILABLE"}
    assert "adapter none is not loaded" in manager.config_error
    manager.follow({}).result(TIMEOUT)
    assert (states(manager), manager.config_error) == ({("chat", "1"): "AVAILABLE"}, "")
