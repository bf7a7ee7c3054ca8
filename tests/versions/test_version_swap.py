"""One change at a time, with a step loop that runs every call at once."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.served_versions import ServedVersions
from server.engine.version_changes import VersionChanges
from server.versions.golden import GoldenError
from server.versions.version import SwapSettings, Version, VersionError
from server.versions.version_swap import VersionSwap
from tests.engine.builders import make_ranks
from tests.engine.fakes import FakeLoader


class ImmediateEngine:
    """Its scheduler has no sequences, so every version is unused."""

    def __init__(self, first):
        self.versions = ServedVersions(first)
        self.changes = VersionChanges(make_ranks(versions=self.versions))
        self.failure = None

    def call(self, function):
        future = Future()
        try:
            future.set_result(function(self.changes))
        except Exception as error:
            future.set_exception(error)
        return future

    def fail(self, error):
        self.failure = error


class FakeGolden:
    """Remembers what was served, and whether the version was open, while its prompts ran."""

    def __init__(self, versions):
        self._versions = versions
        self.wrong, self.seen = set(), []

    def check(self, name, golden, timeout):
        loaded = self._versions.find(name, may_be_closed=True)
        self.seen.append((name, self._versions.serving, loaded in self._versions._open))
        if name in self.wrong:
            raise GoldenError("golden prompt 1 of 2: wrong")


class Bench:
    def __init__(self, watch_window):
        self.engine = ImmediateEngine(LoadedVersion("1"))
        self.versions, self.loader = self.engine.versions, FakeLoader()
        self.golden, self.interrupted = FakeGolden(self.versions), threading.Event()
        self.first, self.second = Version("1", "/models/1"), Version("2", "/models/2")
        self.states = []
        self.swap = VersionSwap(
            self.engine,
            self.loader,
            self.golden,
            SwapSettings(policy="availability", watch_window=watch_window, swap_timeout=0.0),
            self.interrupted,
            lambda: self.states.append((self.second.state, self.second.message)),
            lambda: 0.0,
        )

    def load(self, policy, leaving=()):
        self.swap.load(self.second, policy, leaving)

    def promote(self, policy):
        """Load version 2 and serve it; its watch."""
        self.load(policy)
        return self.swap.promote(self.first, self.second)

    def fault(self):
        self.engine.changes.on_fault(self.versions.loaded("2"))


@pytest.fixture
def bench():
    return Bench(watch_window=30.0)


class TestLoad:
    def test_a_version_is_proved_while_only_the_engine_itself_may_name_it(self, bench):
        bench.load("availability")
        assert bench.golden.seen == [("2", LoadedVersion("1"), False)]
        assert bench.versions.find("2") == LoadedVersion("2", 1)
        assert [message or state for state, message in bench.states] == [
            "looking at it",
            "reading weights",
            "running golden prompts",
            "AVAILABLE",
        ]

    def test_with_the_resource_policy_it_only_comes_into_host_memory(self, bench):
        bench.load("resource")
        assert bench.second.staged is not None
        assert bench.versions.loaded("2") is None
        assert bench.golden.seen == []

    def test_versions_leave_before_the_weights_are_read(self, bench):
        bench.load("availability")
        third = Version("3", "/models/3")
        bench.loader.before_read = lambda: seen.append(bench.versions.loaded("2"))
        seen = []
        bench.swap.load(third, "availability", [bench.second])
        assert seen == [None]
        assert bench.second.state == "END"

    def test_versions_stay_where_the_one_to_load_is_refused(self, bench):
        bench.load("availability")
        absent = Version("9", "/models/9")
        with pytest.raises(ValueError, match="not there"):
            bench.swap.load(absent, "availability", [bench.second])
        assert (absent.state, bench.second.state) == ("END", "AVAILABLE")

    def test_wrong_weights_leave_the_device(self, bench):
        bench.golden.wrong.add("2")
        with pytest.raises(GoldenError):
            bench.load("availability")
        assert bench.versions.loaded("2") is None
        assert bench.loader.dropped == ["2"]
        assert (bench.second.state, bench.second.message) == ("END", "golden prompt 1 of 2: wrong")

    def test_a_load_that_is_interrupted_ends(self, bench):
        bench.loader.before_read = bench.interrupted.set
        with pytest.raises(VersionError, match="a rollback came first"):
            bench.load("availability")
        assert bench.second.state == "END"
        assert (bench.loader.weights, bench.loader.dropped) == ({}, ["2"])


class TestPromote:
    def test_from_the_device_it_falls_back_to_the_version_before(self, bench):
        watch = bench.promote("availability")
        assert watch is bench.versions.watch
        assert (watch.version, watch.fallback) == (LoadedVersion("2", 1), LoadedVersion("1"))
        assert bench.versions.serving == LoadedVersion("2", 1)

    def test_from_host_memory_it_is_proved_while_requests_wait(self, bench):
        watch = bench.promote("resource")
        assert bench.golden.seen == [("2", None, False)]
        assert (bench.versions.serving, watch.fallback) == (watch.version, None)
        assert (bench.first.staged, bench.second.staged) == ([0], None)
        assert bench.versions.previous == "1"

    def test_wrong_weights_from_host_memory_give_their_place_back(self, bench):
        bench.golden.wrong.add("2")
        with pytest.raises(GoldenError):
            bench.promote("resource")
        assert bench.versions.serving.name == "1"
        assert bench.versions.find("1") == bench.versions.serving
        assert bench.loader.weights == {bench.versions.serving: 0}
        assert (bench.second.state, bench.loader.num_forgotten) == ("END", 1)
        assert bench.versions.previous is None

    def test_after_a_failed_exchange_of_weights_the_engine_ends(self, bench):
        bench.load("resource")

        def fail(*_):
            raise OSError("the device is gone")

        bench.loader.exchange = fail
        with pytest.raises(OSError, match="the device is gone") as caught:
            bench.swap.promote(bench.first, bench.second)
        assert bench.engine.failure is caught.value

    @pytest.mark.parametrize("policy", ["availability", "resource"])
    def test_without_a_watch_window_there_is_no_trial(self, policy):
        bench = Bench(watch_window=0.0)
        assert bench.promote(policy) is None
        bench.fault()
        assert bench.versions.served == "2"


class TestBack:
    @pytest.mark.parametrize("policy", ["availability", "resource"])
    def test_a_rollback_keeps_the_version_it_leaves(self, bench, policy):
        bench.promote(policy)
        bench.golden.seen.clear()
        bench.swap.go_back(bench.second, bench.first)
        assert (bench.versions.served, bench.versions.previous) == ("1", "2")
        assert (bench.golden.seen, bench.versions.watch) == ([], None)
        assert bench.second.state != "END"

    @pytest.mark.parametrize("policy", ["availability", "resource"])
    @pytest.mark.parametrize("has_faulted", [True, False])
    def test_a_version_that_is_taken_back_ends(self, bench, policy, has_faulted):
        bench.promote(policy)
        if has_faulted:
            bench.fault()
        bench.swap.take_back(bench.second, bench.first, "it was wrong")
        assert bench.versions.serving.name == "1"
        assert (bench.versions.previous, bench.versions.loaded("2")) == (None, None)
        assert bench.second.message == "went back to version 1: it was wrong"

    @pytest.mark.parametrize("policy", ["availability", "resource"])
    @pytest.mark.parametrize("change", [VersionSwap.promote, VersionSwap.go_back])
    def test_after_a_fault_no_other_change_is_made_first(self, bench, policy, change):
        bench.promote(policy)
        bench.fault()
        with pytest.raises(VersionError, match="a rollback came first"):
            change(bench.swap, bench.second, bench.first)
        assert bench.second.state != "END"

    def test_a_fault_keeps_the_version_to_go_back_to(self, bench):
        bench.promote("resource")
        bench.fault()
        with pytest.raises(VersionError, match="a rollback came first"):
            bench.swap.unload(bench.first)
        assert bench.first.staged is not None

    def test_without_a_fault_the_version_to_go_back_to_can_be_unloaded(self, bench):
        bench.promote("availability")
        bench.swap.unload(bench.first)
        assert (bench.first.state, bench.versions.previous) == ("END", None)
        bench.fault()
        assert bench.versions.serving == LoadedVersion("2", 1)
