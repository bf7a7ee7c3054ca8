"""What becomes of versions, with weights that are a number and an engine that is the real one."""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress

import pytest

from models.checkpoint.gcs import GcsAccessError
from server import threads
from server.engine.engine import Engine
from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.data_ranks import Ranks
from server.engine.policy.scheduler import Scheduler
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.served_versions import ServedVersions
from server.engine.requests import OWN_CLIENT
from server.link.frames import Submit, VersionCommand
from server.link.sampling import SamplingParams
from server.threads import fault_counts
from server.versions.golden import GoldenClient
from server.versions.manager import VersionManager
from server.versions.model_file.model_file import ModelFile
from server.versions.version import (
    SwapSettings,
    UnpublishedError,
    Version,
    VersionError,
    may_pass,
)
from tests.engine.fakes import (
    EOS,
    NAN_WEIGHTS,
    FakeObserver,
    FakeRunner,
    expected_tokens,
    golden_of,
)

FIRST = LoadedVersion("1")
POLICIES = ("availability", "resource")
# Two blocks that the prefix cache could find, and more than half of a step.
PROMPT = list(range(1, 10))


class FakeSwapObserver:
    def __init__(self):
        self.swaps, self.loads, self.switches = [], [], []

    def on_swap(self, result):
        self.swaps.append(result)

    def on_load(self, seconds):
        self.loads.append(seconds)

    def on_switch(self, seconds):
        self.switches.append(seconds)


class Server:
    """An engine that serves version 1, its manager, and one client's requests."""

    def __init__(
        self, policy="availability", watch_window=0.0, swap_timeout=60.0, clock=time.monotonic
    ):
        self.runner = FakeRunner(
            kinds=(KVKind(None, 65),), block_size=4, max_num_seqs=4, max_num_batched_tokens=16
        )
        self.loader = self.runner.loader
        self.step_seconds = 0.0
        self.runner.on_read = lambda: time.sleep(self.step_seconds)
        scheduler = Scheduler(
            BlockManager(self.runner.kinds, 4),
            max_num_seqs=4,
            max_num_batched_tokens=16,
            max_queue_len=64,
            max_model_len=128,
            versions=ServedVersions(FIRST),
        )
        self.observer, self.swaps = FakeObserver(), FakeSwapObserver()
        self.engine = Engine(
            Ranks([scheduler]), self.runner, self.observer, self._send, eos_token_ids=(EOS,)
        )
        golden = GoldenClient(lambda submit: self.engine.receive(OWN_CLIENT, submit))
        self._receive = golden.receive
        self.manager = VersionManager(
            self.engine,
            self.loader,
            golden,
            Version("1", "/models/1", "AVAILABLE"),
            SwapSettings(policy=policy, watch_window=watch_window, swap_timeout=swap_timeout),
            self.swaps,
            clock=clock,
        )
        self.events = {}
        self._request_ids = iter(range(1, 10_000))
        self.thread = threading.Thread(target=self.engine.run)
        self.thread.start()
        self.manager.start()

    def _send(self, client, frame):
        if client == OWN_CLIENT:
            self._receive(frame)
            return
        for event in frame.events:
            self.events.setdefault(event.request_id, []).append(event)

    def do(self, action, version="", *, path="", policy=None):
        """A command, done."""
        path = path or (f"/models/{version}" if action == "load" else "")
        command = VersionCommand(
            command_id=1, action=action, version=version, path=path, policy=policy
        )
        self.manager.command(command).result(60)

    def refusal(self, *args, **options):
        with pytest.raises(VersionError) as error:
            self.do(*args, **options)
        return str(error.value)

    def submit(self, max_tokens=6, version=None, n=1):
        request_id = next(self._request_ids)
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, seed=3)
        self.engine.receive(
            1,
            Submit(
                request_id=request_id,
                prompt_token_ids=PROMPT,
                params=params,
                n=n,
                arrival=time.monotonic(),
                version=version,
            ),
        )
        return request_id

    def finish(self, request_id):
        """The version it ran on, its tokens, and its error."""
        self.wait(lambda: any(e.finish_reason for e in self.events.get(request_id, [])))
        events = self.events[request_id]
        tokens = [token for event in events for token in event.token_ids]
        version = next((event.version for event in events if event.version), "")
        return version, tokens, events[-1].error

    def answers(self, request_id, weights, max_tokens=6):
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, seed=3)
        return self.finish(request_id)[1] == expected_tokens(PROMPT, params, weights=weights)

    def wait(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    @property
    def states(self):
        """Of each version its newest state, and which is served."""
        return {
            status.version: status.state + ("*" if status.is_serving else "")
            for status in reversed(self.manager.statuses())
        }

    def status(self, version):
        found = [s for s in self.manager.statuses() if s.version == version]
        return found[-1]

    def stop(self):
        self.engine.stop()
        self.thread.join(10)


@pytest.fixture
def start():
    servers = []

    def start_one(**options):
        servers.append(Server(**options))
        return servers[-1]

    yield start_one
    for server in servers:
        server.stop()


@pytest.mark.parametrize("policy", POLICIES)
class TestPromote:
    def test_new_requests_get_the_new_version_and_know_it(self, start, policy):
        server = start(policy=policy)
        assert server.answers(server.submit(), weights=0)
        server.do("load", "2")
        assert server.answers(server.submit(), weights=0)
        server.do("promote", "2")
        request_id = server.submit()
        assert server.finish(request_id)[0] == "2"
        assert server.answers(request_id, weights=2)
        assert server.swaps.swaps == ["promoted"]

    def test_what_runs_finishes_on_the_version_it_began_with(self, start, policy):
        server = start(policy=policy)
        server.step_seconds = 0.01
        server.do("load", "2")
        running = [server.submit(max_tokens=40) for _ in range(3)]
        server.wait(lambda: len(server.events) == 3)
        waiting = threading.Thread(target=server.do, args=("promote", "2"))
        waiting.start()
        late = server.submit()
        waiting.join()
        assert all(server.answers(request_id, 0, 40) for request_id in running)
        assert server.finish(late)[2] is None
        assert server.answers(server.submit(), weights=2)

    def test_versions_are_promoted_back_and_forth(self, start, policy):
        server = start(policy=policy)
        server.do("load", "2")
        for _ in range(3):
            server.do("promote", "2")
            assert server.answers(server.submit(), weights=2)
            server.do("promote", "1")
            assert server.answers(server.submit(), weights=0)

    def test_a_rollback_needs_no_load(self, start, policy):
        server = start(policy=policy)
        server.do("load", "2")
        server.do("promote", "2")
        server.loader.paths.clear()
        server.do("rollback")
        assert server.answers(server.submit(), weights=0)
        assert server.swaps.swaps == ["promoted", "rolled_back"]

    def test_one_version_beside_the_served_one_is_kept(self, start, policy):
        server = start(policy=policy)
        server.do("load", "2")
        server.do("promote", "2")
        server.do("load", "3")
        assert server.states["1"] == "END"
        assert len(server.loader.weights) <= 2
        server.do("promote", "3")
        assert server.answers(server.submit(), weights=3)

    def test_wrong_golden_tokens_are_never_served(self, start, policy):
        server = start(policy=policy)
        server.loader.golden[2] = golden_of(3)
        with suppress(VersionError):
            server.do("load", "2")
        message = server.refusal("promote", "2")
        assert "2 is not" in message
        assert "golden prompt 1 of 2" in server.status("2").message
        assert server.states == {"1": "AVAILABLE*", "2": "END"}
        request_id = server.submit()
        assert server.finish(request_id)[0] == "1"
        assert server.answers(request_id, weights=0)
        assert server.swaps.swaps == ["failed"]

    def test_a_version_that_cannot_be_read_leaves_the_served_one(self, start, policy):
        server = start(policy=policy)
        message = server.refusal("load", "9")
        assert message == "version 9 is not loaded: /models/9 is not there"
        assert server.status("9").message == "/models/9 is not there"
        assert server.states == {"1": "AVAILABLE*", "9": "END"}
        assert server.answers(server.submit(), weights=0)

    def test_a_version_that_is_loaded_again_is_told_once(self, start, policy):
        server = start(policy=policy)
        server.refusal("load", "9")
        server.loader.paths["/models/9"] = 9
        server.do("load", "9")
        assert [status.version for status in server.manager.statuses()] == ["1", "9"]
        assert server.status("9").message != "/models/9 is not there"

    def test_a_version_that_is_refused_does_not_cost_the_one_to_go_back_to(self, start, policy):
        server = start(policy=policy)
        server.do("load", "2")
        server.do("promote", "2")
        server.refusal("load", "22")
        server.do("rollback")
        assert server.answers(server.submit(), weights=0)


class TestNames:
    def test_a_request_may_name_a_loaded_version(self, start):
        server = start()
        server.do("load", "2")
        assert server.answers(server.submit(version="2"), weights=2)
        assert server.answers(server.submit(version="1"), weights=0)

    def test_versions_take_turns_and_keep_their_caches_apart(self, start):
        """The fake device fails the step that would read another version's KV."""
        server = start()
        server.do("load", "2")
        ids = [
            (server.submit(20, version), weights) for version, weights in [("1", 0), ("2", 2)] * 6
        ]
        assert all(server.answers(request_id, weights, 20) for request_id, weights in ids)

    def test_one_request_runs_on_one_version_whatever_its_choices(self, start):
        server = start()
        server.step_seconds = 0.01
        server.do("load", "2")
        request_id = server.submit(max_tokens=10, n=8)
        server.wait(lambda: request_id in server.events)
        server.do("promote", "2")
        server.wait(lambda: sum(bool(e.finish_reason) for e in server.events[request_id]) == 8)
        assert {e.version for e in server.events[request_id] if e.version} == {"1"}

    def test_what_is_not_loaded_is_not_found(self, start):
        server = start()
        assert server.finish(server.submit(version="2"))[2] == "not_found"

    def test_a_staged_version_cannot_be_named(self, start):
        server = start(policy="resource")
        server.do("load", "2")
        assert server.finish(server.submit(version="2"))[2] == "not_found"


class TestUnload:
    def test_an_unload_frees_the_weights(self, start):
        server = start()
        server.do("load", "2")
        server.do("unload", "2")
        assert server.loader.dropped == ["2"]
        assert server.finish(server.submit(version="2"))[2] == "not_found"

    def test_not_of_what_is_served(self, start):
        assert "is served" in start().refusal("unload", "1")

    def test_not_while_it_is_in_use(self, start):
        server = start(swap_timeout=0.05)
        server.do("load", "2")
        server.step_seconds = 0.3
        request_id = server.submit(60, version="2")
        server.wait(lambda: request_id in server.events)
        assert "still has sequences" in server.refusal("unload", "2")
        server.step_seconds = 0
        assert server.answers(request_id, 2, 60)

    def test_a_version_loaded_anew_finds_no_cache_of_the_old_one(self, start):
        server = start()
        server.do("load", "2")
        assert server.answers(server.submit(12, version="2"), 2, 12)
        server.do("unload", "2")
        server.loader.paths["/models/2"] = 5
        server.do("load", "2")
        assert server.answers(server.submit(12, version="2"), 5, 12)


def test_a_sequence_that_does_not_leave_in_time_ends_so_that_the_weights_can(start):
    server = start(policy="resource", swap_timeout=0.1)
    server.do("load", "2")
    server.step_seconds = 0.3
    request_id = server.submit(100)
    server.wait(lambda: request_id in server.events)
    server.do("promote", "2")
    server.step_seconds = 0
    assert server.finish(request_id)[2] == "unavailable"
    assert server.answers(server.submit(), weights=2)


def test_a_rollback_ends_a_load(start):
    server = start()
    server.do("load", "2")
    server.do("promote", "2")
    begun, go_on = threading.Event(), threading.Event()

    def read():
        begun.set()
        assert go_on.wait(10)

    server.loader.before_read = read
    load = server.manager.command(
        VersionCommand(command_id=1, action="load", version="3", path="/models/3")
    )
    assert begun.wait(10)
    back = server.manager.command(VersionCommand(command_id=2, action="rollback"))
    go_on.set()
    assert "a rollback came first" in str(load.exception(10))
    back.result(10)
    assert server.states["1"] == "AVAILABLE*"
    assert server.answers(server.submit(), weights=0)


def test_a_rollback_ends_a_load_that_waits_for_its_turn(start):
    server = start()
    server.do("load", "2")
    server.do("promote", "2")
    begun, go_on = threading.Event(), threading.Event()

    def block():
        begun.set()
        assert go_on.wait(10)

    first = server.manager._put(block)
    assert begun.wait(10)
    load = server.manager.command(
        VersionCommand(command_id=1, action="load", version="3", path="/models/3")
    )
    back = server.manager.command(VersionCommand(command_id=2, action="rollback"))
    go_on.set()
    first.result(10)
    assert "a rollback came first" in str(load.exception(10))
    back.result(10)
    assert server.states["1"] == "AVAILABLE*"


FAILED_LOADS = [
    # Policy, how many staged versions there is room for, and what ends the load.
    ("availability", 1, "unreadable"),
    ("availability", 1, "wrong golden tokens"),
    ("resource", 1, "unreadable"),
    ("resource", 2, "unreadable"),
    ("resource", 1, "wrong golden tokens"),
]


class TestRollbackAfterAFailedLoad:
    """Whatever ends a load, and wherever its memory came from, the version before is kept."""

    def fail(self, server, damage):
        if damage == "unreadable":
            server.loader.unreadable["/models/3"] = ValueError("byte 7 is wrong")
        server.loader.golden[3] = golden_of(2)
        with suppress(VersionError):
            server.do("load", "3")
        with suppress(VersionError):
            server.do("promote", "3")

    @pytest.mark.parametrize(("policy", "num_stageable", "damage"), FAILED_LOADS)
    def test_a_load_that_fails_leaves_a_version_to_go_back_to(
        self, start, policy, num_stageable, damage
    ):
        server = start(policy=policy)
        server.loader.num_stageable = num_stageable
        server.do("load", "2")
        server.do("promote", "2")
        self.fail(server, damage)
        assert server.states["2"] == "AVAILABLE*"
        assert server.states["3"] == "END"
        server.do("rollback")
        assert server.answers(server.submit(), weights=0)

    @pytest.mark.parametrize("policy", POLICIES)
    def test_a_version_to_go_back_to_that_is_lost_is_reported(self, start, policy):
        server = start(policy=policy)
        server.do("load", "2")
        server.do("promote", "2")
        server.loader.unreadable["/models/1"] = OSError("the disk is gone")
        self.fail(server, "unreadable")
        message = server.status("1").message
        assert message.startswith("there is no version to go back to: version 1 made room for")
        assert message.endswith("could not be loaded again: the disk is gone")
        assert "no version to go back to" in server.refusal("rollback")


def test_where_host_memory_has_room_the_version_before_stays_until_the_new_one_is_staged(start):
    server = start(policy="resource")
    server.loader.num_stageable = 2
    server.do("load", "2")
    server.do("promote", "2")
    seen = []
    server.loader.before_read = lambda: seen.append(server.states["1"])
    server.do("load", "3")
    assert seen == ["UNLOADING"]
    assert server.states["1"] == "END"


def test_without_room_for_any_version_nothing_is_unloaded(start):
    server = start(policy="resource")
    server.do("load", "2")
    server.do("promote", "2")
    server.loader.num_stageable = 0
    assert "no room" in server.refusal("load", "3")
    server.do("rollback")
    assert server.answers(server.submit(), weights=0)


@pytest.mark.parametrize("policy", POLICIES)
class TestTrial:
    def test_a_request_that_fails_brings_back_the_version_before(self, start, policy):
        server = start(policy=policy, watch_window=30.0)
        server.do("load", "2")
        server.do("promote", "2")
        for version in list(server.loader.weights):
            if version.name == "2":
                server.loader.weights[version] = NAN_WEIGHTS[0]
        first = server.submit()
        assert server.finish(first)[2] == "internal"
        server.wait(lambda: server.states.get("1") == "AVAILABLE*")
        assert server.answers(server.submit(), weights=0)
        server.wait(lambda: server.swaps.swaps == ["promoted", "automatic_rollback"])
        server.wait(lambda: server.states["2"] == "END")
        assert "went back to version 1" in server.status("2").message

    def test_requests_without_a_token_begin_again(self, start, policy):
        server = start(policy=policy, watch_window=30.0)
        server.do("load", "2")
        server.do("promote", "2")
        for version in list(server.loader.weights):
            if version.name == "2":
                server.loader.weights[version] = NAN_WEIGHTS[0]
        requests = [server.submit() for _ in range(12)]
        ends = [server.finish(request_id) for request_id in requests]
        failed = [end for end in ends if end[2]]
        assert 0 < len(failed) <= 2, "what the step held in which it was found out"
        assert all(version == "1" for version, _, error in ends if not error)

    def test_golden_prompts_are_asked_again(self, start, policy):
        server = start(policy=policy, watch_window=0.2)
        server.do("load", "2")
        server.do("promote", "2")
        for version in list(server.loader.weights):
            if version.name == "2":
                server.loader.weights[version] = 3
        server.wait(lambda: server.swaps.swaps == ["promoted", "automatic_rollback"])
        server.wait(lambda: server.states == {"1": "AVAILABLE*", "2": "END"})

    def test_a_trial_ends_when_the_version_before_must_make_room(self, start, policy):
        server = start(policy=policy, watch_window=30.0)
        server.do("load", "2")
        server.do("promote", "2")
        server.do("load", "3")
        server.runner.poisoned_request_ids.add(1)
        assert server.finish(server.submit())[2] == "internal"
        assert server.answers(server.submit(), weights=2)
        assert server.states["2"] == "AVAILABLE*"

    def test_after_the_window_a_fault_is_a_fault(self, start, policy):
        server = start(policy=policy, watch_window=0.05)
        server.do("load", "2")
        server.do("promote", "2")
        server.wait(lambda: server.engine.versions.watch is None)
        server.runner.poisoned_request_ids.add(1)
        assert server.finish(server.submit())[2] == "internal"
        assert server.states["2"] == "AVAILABLE*"


def test_of_the_versions_that_ended_the_last_eight_are_reported(start):
    server = start()
    for version in range(11, 21):
        server.refusal("load", str(version))
    versions = [status.version for status in server.manager.statuses()]
    assert versions == ["1", *map(str, range(13, 21))]


def test_a_fault_is_answered_before_a_command_that_came_earlier(start, monkeypatch):
    """Or a rollback would return to the version that the step loop has just left."""
    server = start(watch_window=30.0)
    server.do("load", "2")
    server.do("promote", "2")
    begun, go_on = threading.Event(), threading.Event()

    def refuse(path):
        begun.set()
        assert go_on.wait(10)
        raise ValueError(f"{path} is not there")

    monkeypatch.setattr(server.loader, "inspect", refuse)
    load = server.manager.command(
        VersionCommand(command_id=1, action="load", version="3", path="/models/3")
    )
    assert begun.wait(10)
    back = server.manager.command(VersionCommand(command_id=2, action="rollback"))
    server.runner.poisoned_request_ids.add(1)
    assert server.finish(server.submit())[2] == "internal"
    assert server.states["1"] == "AVAILABLE*"
    go_on.set()
    assert "/models/3 is not there" in str(load.exception(10))
    assert "no version to go back to" in str(back.exception(10))
    assert server.states == {"1": "AVAILABLE*", "2": "END", "3": "END"}
    assert server.swaps.swaps == ["promoted", "failed", "automatic_rollback"]


class TestFollow:
    def file(self, version="2", **fields):
        return ModelFile("tiny", "/models", version, **fields)

    def test_the_file_says_which_version_is_served(self, start):
        server = start()
        server.manager.follow(self.file()).result(10)
        assert server.answers(server.submit(), weights=2)
        server.manager.follow(self.file("1")).result(10)
        assert server.answers(server.submit(), weights=0)

    def test_what_it_says_already_is_done_already(self, start):
        server = start()
        server.manager.follow(self.file("1")).result(10)
        assert server.swaps.swaps == []

    def test_a_version_that_fails_is_reported_and_changes_nothing(self, start):
        server = start()
        with pytest.raises(VersionError):
            server.manager.follow(self.file("9")).result(10)
        assert "/models/9 is not there" in server.manager.config_error
        assert server.states["1"] == "AVAILABLE*"

    def test_labels_load_what_they_name(self, start):
        server = start()
        labels = {"stable": "1", "canary": "2"}
        server.manager.follow(self.file("1", labels=labels)).result(10)
        assert server.status("2").labels == ("canary",)
        assert server.status("1").labels == ("stable",)
        assert server.answers(server.submit(version="2"), weights=2)

    def test_the_policy_of_the_model_file_wins(self, start):
        server = start(policy="availability")
        server.manager.follow(self.file(swap_policy="resource")).result(10)
        assert server.loader.staged == [2]
        assert server.answers(server.submit(), weights=2)

    def test_a_file_that_says_nothing_is_told_until_one_does(self, start, caplog):
        server = start()
        server.manager.reject("it is not YAML")
        assert server.manager.config_error == "it is not YAML"
        assert caplog.messages == ["the model configuration file is not followed: it is not YAML"]
        server.manager.follow(self.file("1")).result(10)
        assert server.manager.config_error == ""

    def test_labels_name_at_most_one_version_next_to_the_served_one(self, start):
        server = start()
        with pytest.raises(VersionError, match="labels name versions 2 and 3 next to version 1"):
            server.manager.follow(self.file("1", labels={"a": "2", "b": "3"})).result(10)
        assert server.states == {"1": "AVAILABLE*"}

    def test_what_nobody_foresaw_is_an_error_and_the_next_file_is_followed(self, start):
        server = start()
        server.loader.unreadable["/models/2"] = RuntimeError("nobody foresaw this")
        before = fault_counts().get("versions", 0)
        with pytest.raises(VersionError, match="nobody foresaw this"):
            server.manager.follow(self.file("2")).result(10)
        assert "nobody foresaw this" in server.manager.config_error
        assert server.status("2").state == "END"
        assert fault_counts()["versions"] == before + 1
        server.manager.follow(self.file("3")).result(10)
        assert server.manager.config_error == ""
        assert server.answers(server.submit(), weights=3)

    def test_a_fault_of_the_thread_itself_is_an_error_and_it_goes_on(self, start, monkeypatch):
        server = start()

        def fail():
            monkeypatch.undo()
            raise RuntimeError("nobody foresaw this")

        monkeypatch.setattr(threads, "_PAUSE_SECONDS", 0.0)
        monkeypatch.setattr(server.manager._trial, "check", fail)
        server.manager.follow(self.file("1")).result(10)
        server.wait(lambda: "nobody foresaw this" in server.manager.config_error)
        server.manager.follow(self.file("2")).result(10)
        assert server.manager.config_error == ""
        assert server.answers(server.submit(), weights=2)


@pytest.mark.parametrize("policy", POLICIES)
class TestPath:
    """A path that changed is another version, even where the number is the same."""

    def file(self, path="/elsewhere", version="1", **fields):
        return ModelFile("tiny", path, version, **fields)

    def moved(self, start, policy, **options):
        """A server that follows version 1 from /models to /elsewhere, with other weights."""
        server = start(policy=policy, **options)
        server.loader.paths["/elsewhere/1"] = 5
        server.manager.follow(self.file("/models")).result(10)
        assert server.swaps.swaps == []
        server.manager.follow(self.file()).result(10)
        return server

    def test_the_weights_of_the_new_path_are_served_under_the_same_number(self, start, policy):
        server = self.moved(start, policy)
        for version in (None, "1"):
            request_id = server.submit(version=version)
            assert server.finish(request_id)[0] == "1"
            assert server.answers(request_id, weights=5)
        served, kept = server.manager.statuses()
        assert (served.version, served.path, served.is_serving) == ("1", "/elsewhere/1", True)
        assert (kept.version, kept.path, kept.is_serving) == ("1", "/models/1", False)
        assert "to go back to" in kept.message
        assert [status.state for status in (served, kept)] == ["AVAILABLE", "UNLOADING"]

    def test_a_rollback_serves_the_old_path_again(self, start, policy):
        server = self.moved(start, policy)
        server.do("rollback")
        assert server.answers(server.submit(), weights=0)
        assert server.answers(server.submit(version="1"), weights=0)
        assert server.manager.statuses()[0].path == "/models/1"

    def test_the_new_path_is_proved_before_any_request_gets_it(self, start, policy):
        server = start(policy=policy)
        server.loader.paths["/elsewhere/1"] = 5
        server.loader.golden[5] = golden_of(3)
        with pytest.raises(VersionError, match="golden prompt 1 of 2"):
            server.manager.follow(self.file()).result(10)
        assert server.answers(server.submit(version="1"), weights=0)
        assert "golden prompt 1 of 2" in server.manager.config_error

    def test_the_path_may_change_again_and_back(self, start, policy):
        server = self.moved(start, policy)
        server.loader.paths["/third/1"] = 7
        for path, weights in (("/third", 7), ("/models", 0), ("/elsewhere", 5)):
            server.manager.follow(self.file(path)).result(10)
            assert server.answers(server.submit(version="1"), weights=weights)

    def test_a_fault_of_the_new_path_brings_back_the_old_one(self, start, policy):
        server = self.moved(start, policy, watch_window=30.0)
        for version in list(server.loader.weights):
            if server.loader.weights[version] == 5:
                server.loader.weights[version] = NAN_WEIGHTS[0]
        assert server.finish(server.submit())[2] == "internal"
        server.wait(lambda: server.manager.statuses()[0].path == "/models/1")
        assert server.answers(server.submit(version="1"), weights=0)

    def test_the_same_place_spelled_another_way_is_the_same_version(self, start, policy):
        server = start(policy=policy)
        server.manager.follow(self.file("/models/../models/")).result(10)
        assert server.swaps.swaps == []
        assert server.manager.config_error == ""


class FakeClock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class TestRetry:
    """A load that failed for a reason that may pass is tried again while the file asks for it."""

    FILE = ModelFile("tiny", "/models", "2")

    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def server(self, start, clock):
        server = start(clock=clock)
        server.loader.unreadable["/models/2"] = OSError("the mount does not answer")
        return server

    def follow(self, server, file=FILE):
        with suppress(VersionError):
            server.manager.follow(file).result(10)

    def tries(self, server, clock, seconds):
        """How often it is tried within so many seconds, looked at every quarter of a second."""
        tries = []
        server.loader.before_read = lambda: tries.append(clock.now)
        for _ in range(int(4 * seconds)):
            clock.now += 0.25
            # The manager looks at the time after each task.
            server.manager._put(lambda: None).result(10)
            server.manager._put(lambda: None).result(10)
        return len(tries)

    def test_a_load_is_tried_again_at_growing_intervals(self, server, clock):
        self.follow(server)
        assert [self.tries(server, clock, seconds) for seconds in (1, 2, 4, 8)] == [1, 1, 1, 1]
        assert self.tries(server, clock, 15) == 0
        assert self.tries(server, clock, 1) == 1

    def test_the_longest_interval_is_a_minute(self, server, clock):
        self.follow(server)
        self.tries(server, clock, 1 + 2 + 4 + 8 + 16 + 32)
        assert [self.tries(server, clock, 60), self.tries(server, clock, 60)] == [1, 1]

    def test_the_error_and_the_status_say_when(self, server, clock):
        self.follow(server)
        for message in (server.manager.config_error, server.status("2").message):
            assert re.search(
                r"does not answer; the server tries again in 1 s \(at .*UTC\)", message
            )
        self.tries(server, clock, 1)
        assert "tries again in 2 s" in server.manager.config_error

    def test_once_the_reason_has_passed_it_is_served(self, server, clock):
        self.follow(server)
        del server.loader.unreadable["/models/2"]
        assert self.tries(server, clock, 1) == 1
        assert server.answers(server.submit(), weights=2)
        assert server.manager.config_error == ""
        assert self.tries(server, clock, 120) == 0

    def test_another_file_ends_it(self, server, clock):
        self.follow(server)
        self.follow(server, ModelFile("tiny", "/models", "1"))
        assert self.tries(server, clock, 120) == 0
        assert server.manager.config_error == ""

    def test_a_command_that_changed_the_version_ends_it(self, server, clock):
        self.follow(server)
        server.do("load", "3")
        server.do("promote", "3")
        assert self.tries(server, clock, 120) == 0
        assert "follows the file again when it changes" in server.manager.config_error
        assert server.answers(server.submit(), weights=3)

    def test_a_version_that_was_taken_back_is_not_served_again_by_a_retry(self, start, clock):
        server = start(clock=clock, watch_window=60.0)

        def inspect(path):
            if path == "/models/3":
                raise OSError("the mount does not answer")

        server.loader.inspect = inspect
        self.follow(server, ModelFile("tiny", "/models", "2", {"canary": "3"}))
        assert server.states["2"] == "AVAILABLE*"
        for version in list(server.loader.weights):
            if version.name == "2":
                server.loader.weights[version] = NAN_WEIGHTS[0]
        assert server.finish(server.submit())[2] == "internal"
        server.wait(lambda: "automatic_rollback" in server.swaps.swaps)
        assert self.tries(server, clock, 120) == 0
        assert server.states["1"] == "AVAILABLE*"
        assert "version 2 was taken back" in server.manager.config_error

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (PermissionError("the token has expired"), 1),
            (UnpublishedError("it has no manifest"), 1),
            (GcsAccessError("there are no credentials"), 1),
            (ValueError("it has another tokenizer"), 0),
        ],
    )
    def test_only_a_reason_that_may_pass_is_tried_again(self, server, clock, error, expected):
        server.loader.unreadable["/models/2"] = error
        self.follow(server)
        assert self.tries(server, clock, 1) == expected

    def test_an_error_of_the_disk_counts_however_it_was_passed_on(self):
        def fail():
            try:
                raise TimeoutError
            except TimeoutError:
                raise ValueError("the bucket does not answer") from None

        with pytest.raises(ValueError, match="does not answer") as caught:
            fail()
        assert may_pass(caught.value)
