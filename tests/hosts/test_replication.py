"""Steps and versions on several hosts: what the leader says, and what a follower makes of it."""

from __future__ import annotations

import queue
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from models.checkpoint.checkpoint import CheckpointError
from models.checkpoint.manifest import Golden
from models.config import VisionConfig
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.programs.device_state import ImageSizes, StateSizes
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.slot_input import SlotSizes, empty_slot
from server.hosts import messages
from server.hosts.replication import (
    LeadingExecutor,
    LeadingLoader,
    Replica,
    from_bytes,
    settle,
    to_bytes,
)
from server.versions.version import may_pass

SIZES = StateSizes(
    kinds=(KVKind(None, 8),),
    block_size=16,
    max_num_seqs=2,
    slot=SlotSizes(32, 4, 4),
    num_words=2,
    draw_rows=2,
)
IMAGES = VisionConfig(
    hidden_size=4,
    num_layers=1,
    num_heads=1,
    mlp_size=4,
    image_size=2,
    patch_size=2,
    num_tokens=1,
    norm_eps=1e-6,
)
BUCKET = Bucket(2, 2, decode_only=True)
VERSION = LoadedVersion("7", 3)
GOLDEN = Golden(0.1, ())


class FakeExecutor:
    """Writes down what it is told; its loader is told to fail by the name of a path."""

    def __init__(self):
        self.done = []
        self.weights_digest = "abc"
        self.blueprint = SimpleNamespace(sizes=SIZES, ladder=SimpleNamespace(buckets=(BUCKET,)))

    def set_slot(self, slot):
        self.done.append(("slot", slot))

    def step(self, bucket, version, inputs):
        self.done.append(("step", bucket, version, inputs))
        return np.zeros(1)

    def draw(self, num_rows, inputs):
        self.done.append(("draw", num_rows, inputs))

    def encode(self, version, inputs):
        self.done.append(("encode", version, inputs))

    def inspect(self, path):
        self._read("inspect", path)

    def load(self, version, path, progress):
        self._read("load", path)
        return GOLDEN

    def stage(self, path, progress):
        self._read("stage", path)
        return [path], GOLDEN

    def exchange(self, out, into, staged):
        self.done.append(("exchange", out, into, list(staged)))

    def drop(self, version):
        self.done.append(("drop", version))

    def _read(self, what, path):
        if path == "bad":
            raise CheckpointError("it is torn")
        if path == "unmounted":
            raise OSError("the mount is gone")
        self.done.append((what, path))


class FakeFollowers:
    """Two followers that answer as they are told beforehand; what they were sent is kept."""

    def __init__(self):
        self.sent = []
        self.answers = {1: messages.Done(error=""), 2: messages.Done(error="")}

    def send(self, frame):
        self.sent.append(frame)

    def hear(self, kind):
        assert all(isinstance(answer, kind) for answer in self.answers.values())
        return self.answers


class FakeLeader:
    """Says what is in the list, then stop, and keeps the answers."""

    def __init__(self, *frames):
        self.frames = [*frames, messages.Stop()]
        self.answers = queue.SimpleQueue()

    def hear(self):
        return self.frames.pop(0)

    def send(self, frame):
        self.answers.put(frame)

    def answer(self):
        return self.answers.get(timeout=5)


@pytest.fixture
def executor():
    return FakeExecutor()


@pytest.fixture
def followers():
    return FakeFollowers()


def a_step():
    """An input that is no padding alone."""
    inputs = SIZES.empty_input(BUCKET)
    inputs.token_ids_T[:] = (5, -1)
    inputs.sampling.temperature[:] = (0.5, 0.0)
    inputs.sampling.seed[:] = 0xFFFFFFFF
    return inputs


def same(one, other):
    return to_bytes(one) == to_bytes(other)


class TestArrays:
    def test_arrays_are_the_same_at_the_other_end(self):
        there = from_bytes(to_bytes(a_step()), SIZES.empty_input(BUCKET))
        assert same(there, a_step())
        assert there.sampling.seed.dtype == np.uint32
        assert there.block_tables_KSB.shape == a_step().block_tables_KSB.shape

    def test_a_slot_is_too(self):
        slot = empty_slot(SIZES.slot, 0, 1)
        slot.bias_values[0] = 2.5
        assert same(from_bytes(to_bytes(slot), empty_slot(SIZES.slot, 0, 0)), slot)

    @pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x"])
    def test_another_length_is_refused(self, change):
        with pytest.raises(ValueError):
            from_bytes(change(to_bytes(a_step())), SIZES.empty_input(BUCKET))


class TestLeadingExecutor:
    def test_followers_are_told_before_it_is_done_here(self, executor, followers):
        followers.send = lambda frame: executor.done.append(("told", type(frame).__name__))
        leading = LeadingExecutor(executor, followers)
        leading.set_slot(empty_slot(SIZES.slot, 0, 1))
        leading.step(BUCKET, VERSION, a_step())
        assert [what[0] for what in executor.done] == ["told", "slot", "told", "step"]

    def test_a_follower_does_the_same(self, executor, followers):
        leading = LeadingExecutor(FakeExecutor(), followers)
        leading.set_slot(empty_slot(SIZES.slot, 0, 1))
        leading.step(BUCKET, VERSION, a_step())
        Replica(executor, executor, FakeLeader(*followers.sent)).run()
        (_, slot), (_, bucket, version, inputs) = executor.done
        assert same(slot, empty_slot(SIZES.slot, 0, 1))
        assert (bucket, version) == (BUCKET, VERSION)
        assert same(inputs, a_step())

    def test_a_choice_is_made_on_every_host(self, executor, followers):
        choice, here = SIZES.empty_draw(), FakeExecutor()
        choice.allowed_SW[1] = (7, 0)
        LeadingExecutor(here, followers).draw(2, choice)
        Replica(executor, executor, FakeLeader(*followers.sent)).run()
        for done in (here.done, executor.done):
            [(what, num_rows, inputs)] = done
            assert (what, num_rows) == ("draw", 2)
            assert same(inputs, choice)

    def test_an_image_is_read_on_every_host(self, executor, followers):
        sizes = replace(SIZES, num_ranks=2, images=ImageSizes(IMAGES, num_images=3))
        executor.blueprint.sizes, here = sizes, FakeExecutor()
        image = sizes.empty_image()
        image.pixels[1], image.number[1] = 200, 2
        LeadingExecutor(here, followers).encode(VERSION, image)
        Replica(executor, executor, FakeLeader(*followers.sent)).run()
        for done in (here.done, executor.done):
            [(what, version, inputs)] = done
            assert (what, version) == ("encode", VERSION)
            assert same(inputs, image)


class TestLeadingLoader:
    @pytest.fixture
    def loader(self, executor, followers):
        return LeadingLoader(executor, followers)

    def test_a_version_is_loaded_on_every_host(self, loader, executor, followers):
        assert loader.load(VERSION, "good", print) is GOLDEN
        assert followers.sent == [messages.LoadVersion(version=("7", 3), path="good")]
        assert executor.done == [("load", "good")]

    def test_a_version_that_a_follower_cannot_read_is_on_no_host(self, loader, executor, followers):
        followers.answers[2] = messages.Done(error="its mount is gone")
        with pytest.raises(CheckpointError, match="host 2: its mount is gone"):
            loader.load(VERSION, "good", print)
        assert followers.sent[-1] == messages.Drop(version=("7", 3))
        assert executor.done[-1] == ("drop", VERSION)

    @pytest.mark.parametrize("passes", [True, False])
    def test_a_load_is_tried_again_if_the_follower_says_so(self, loader, followers, passes):
        followers.answers[2] = messages.Done(error="its mount is gone", may_pass=passes)
        with pytest.raises(CheckpointError) as caught:
            loader.load(VERSION, "good", print)
        assert may_pass(caught.value) == passes

    def test_a_version_that_the_leader_cannot_read_is_on_no_host(self, loader, followers):
        with pytest.raises(CheckpointError, match="it is torn"):
            loader.load(VERSION, "bad", print)
        assert followers.sent[-1] == messages.Drop(version=("7", 3))

    def test_staged_versions_have_numbers(self, loader, followers):
        staged = [loader.stage("good", print)[0] for _ in range(2)]
        assert [each.number for each in staged] == [1, 2]
        loader.exchange(LoadedVersion("6"), VERSION, staged[1])
        assert followers.sent[-1] == messages.Exchange(out=("6", 0), into=("7", 3), number=2)
        loader.forget(staged[0])
        assert followers.sent[-1] == messages.Forget(number=1)

    def test_what_is_staged_on_some_hosts_only_is_forgotten(self, loader, followers):
        followers.answers[1] = messages.Done(error="no room")
        with pytest.raises(CheckpointError, match="host 1: no room"):
            loader.stage("good", print)
        assert followers.sent[-1] == messages.Forget(number=1)


class TestReplica:
    def test_a_replica_loads_a_version_and_reports_it(self, executor):
        leader = FakeLeader(messages.LoadVersion(version=("7", 3), path="good"))
        Replica(executor, executor, leader).run()
        assert leader.answer() == messages.Done(error="")
        assert executor.done == [("load", "good")]

    def test_what_it_cannot_read_is_an_answer_and_no_end(self, executor):
        leader = FakeLeader(messages.Stage(number=1, path="bad"))
        Replica(executor, executor, leader).run()
        assert leader.answer() == messages.Done(error="it is torn")

    def test_an_error_that_may_pass_is_reported_as_one(self, executor):
        leader = FakeLeader(messages.Stage(number=1, path="unmounted"))
        Replica(executor, executor, leader).run()
        assert leader.answer() == messages.Done(error="the mount is gone", may_pass=True)

    def test_what_is_staged_is_exchanged_by_its_number(self, executor):
        replica = Replica(
            executor, executor, leader := FakeLeader(messages.Stage(number=4, path="good"))
        )
        replica.run()
        assert leader.answer() == messages.Done(error="")
        leader.frames = [
            messages.Exchange(out=("6", 0), into=("7", 3), number=4),
            messages.Forget(number=4),
            messages.Exchange(out=("6", 0), into=("7", 3), number=4),
            messages.Stop(),
        ]
        replica.run()
        assert executor.done[-1] == ("exchange", LoadedVersion("6"), VERSION, ["good"])
        assert [leader.answer().error for _ in range(2)] == ["", "4"]

    def test_a_step_that_fails_ends_it(self, executor):
        def fail(*_):
            raise RuntimeError("a collective failed")

        executor.step = fail
        leader = FakeLeader(
            messages.RunStep(bucket=(2, 2, True), version=("7", 3), arrays=to_bytes(a_step()))
        )
        with pytest.raises(RuntimeError, match="a collective failed"):
            Replica(executor, executor, leader).run()

    def test_a_word_that_means_nothing_here_ends_it(self, executor):
        with pytest.raises(ValueError, match="does not execute"):
            Replica(executor, executor, FakeLeader(messages.Agreed(chip_bytes=1))).run()


def test_hosts_that_read_other_weights_do_not_serve_together(executor, followers):
    followers.answers = {1: messages.Ready(weights="abc"), 2: messages.Ready(weights="xyz")}
    with pytest.raises(CheckpointError, match="host 2 has read other weights"):
        settle(executor, followers)


def test_hosts_that_read_the_same_do(executor, followers):
    followers.answers = {1: messages.Ready(weights="abc"), 2: messages.Ready(weights="abc")}
    settle(executor, followers)
