"""What becomes of versions, with weights that are a number and an engine that is the real one."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import pytest

from server.engine.engine import OWN_CLIENT, Engine
from server.engine.policy.block_manager import BlockManager
from server.engine.policy.layer_kinds import KVKind
from server.engine.policy.ranks import Ranks
from server.engine.policy.scheduler import Scheduler
from server.engine.policy.sequence import LoadedVersion
from server.engine.policy.served_versions import ServedVersions
from server.link.frames import Submit, VersionCommand
from server.link.sampling import SamplingParams
from server.versions.golden import GoldenClient
from server.versions.manager import VersionManager
from server.versions.model_file import ModelFile
from server.versions.version import SwapSettings, Version, VersionError
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

    def __init__(self, policy="availability", watch_window=0.0, swap_timeout=5.0):
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
        self.manager.command(command).result(10)

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

    def wait(self, condition, seconds=10):
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
        server.step_seconds = 0.02
        server.do("load", "2")
        request_id = server.submit(60, version="2")
        server.wait(lambda: request_id in server.events)
        assert "still has sequences" in server.refusal("unload", "2")
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
    server.step_seconds = 0.02
    server.do("load", "2")
    request_id = server.submit(100)
    server.wait(lambda: request_id in server.events)
    server.do("promote", "2")
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
    # Loading version 3 gives up version 1, so there is nothing to go back to: the load still ends.
    load = server.manager.command(
        VersionCommand(command_id=1, action="load", version="3", path="/models/3")
    )
    assert begun.wait(10)
    back = server.manager.command(VersionCommand(command_id=2, action="rollback"))
    go_on.set()
    assert "a rollback came first" in str(load.exception(10))
    assert "no version to go back to" in str(back.exception(10))


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
        server.wait(lambda: server.states == {"1": "AVAILABLE*", "2": "END"})
        assert server.swaps.swaps == ["promoted", "automatic_rollback"]

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
        time.sleep(0.3)
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

    def test_another_path_needs_another_version(self, start):
        server = start()
        server.manager.follow(self.file("1")).result(10)
        with pytest.raises(VersionError, match="path changed and version did not"):
            server.manager.follow(ModelFile("tiny", "/elsewhere", "1")).result(10)
        assert server.answers(server.submit(), weights=0)
