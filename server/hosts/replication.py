"""Replicates what the leader does on its devices to the followers' devices.

Every host must run the same programs in the same order; otherwise their collectives wait for each
other forever. Only the leader's step loop runs programs. It sends each to the followers before it
runs the program itself; a frame is as small as a step's input. Reading weights runs no program, so
it may happen at the same time.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable
from dataclasses import astuple, dataclass
from itertools import count
from typing import NamedTuple

import jax
import numpy as np

from models.checkpoint.checkpoint import CheckpointError
from models.checkpoint.manifest import Golden
from models.weights.loading import HostLeaves
from server.engine.device.executor import Executor
from server.engine.policy.sequences.block_moves import BlockMoves
from server.engine.policy.sequences.loaded_adapter import LoadedAdapter
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.image_input import ImageInput
from server.engine.programs.inputs.slot_input import SlotInput, empty_slot
from server.engine.programs.inputs.step_input import DrawInput, StepInput
from server.engine.programs.sampling.sampler import Drawn
from server.engine.programs.step_output import StepOutput
from server.hosts import messages
from server.hosts.gathering import Followers
from server.hosts.joining import Leader
from server.threads import end_process, guarded
from server.versions.version import VersionLoader, may_pass

# Steps that a follower may have dispatched but not finished: one more than the leader may have.
_MAX_IN_FLIGHT = 3


class LeadingExecutor:
    """An executor of the devices of every host."""

    def __init__(self, executor: Executor, followers: Followers) -> None:
        self._executor, self._followers = executor, followers

    def set_slot(self, slot: SlotInput) -> None:
        self._followers.send(messages.SetSlot(arrays=to_bytes(slot)))
        self._executor.set_slot(slot)

    def step(self, bucket: Bucket, version: LoadedVersion, inputs: StepInput) -> StepOutput:
        self._followers.send(
            messages.RunStep(
                bucket=astuple(bucket),
                version=_spelled(version),
                arrays=to_bytes(inputs),
            )
        )
        return self._executor.step(bucket, version, inputs)

    def place_adapter(self, adapter: LoadedAdapter, number: int) -> None:
        """Never called: a blueprint with slots for adapters is refused on several hosts."""
        raise NotImplementedError(f"adapter {adapter.name} on several hosts")

    def move_blocks(self, moves: tuple[BlockMoves, ...]) -> None:
        """Never called: a blueprint that keeps blocks on the host is refused on several hosts."""
        raise NotImplementedError(f"{len(moves)} moves of blocks on several hosts")

    def encode(self, version: LoadedVersion, inputs: ImageInput) -> None:
        self._followers.send(messages.Encode(version=_spelled(version), arrays=to_bytes(inputs)))
        self._executor.encode(version, inputs)

    def draw(self, num_rows: int, inputs: DrawInput) -> Drawn:
        self._followers.send(messages.Draw(num_rows=num_rows, arrays=to_bytes(inputs)))
        return self._executor.draw(num_rows, inputs)


@dataclass(frozen=True, slots=True)
class GroupStaged:
    """A version in the memory of every host: this host's part, and its number on the followers."""

    leaves: HostLeaves
    number: int


class LeadingLoader:
    """Loads versions on every host or on none. One thread at a time may use it."""

    def __init__(self, loader: VersionLoader[HostLeaves], followers: Followers) -> None:
        self._loader, self._followers = loader, followers
        self._numbers = count(1)

    def inspect(self, path: str) -> None:
        """Check the version on this host; the followers check it when they read it."""
        self._loader.inspect(path)

    def check_room(self, num_staged: int, num_leaving: int) -> None:
        """Check the memory of this host; the followers check theirs when they read a version."""
        self._loader.check_room(num_staged, num_leaving)

    def load(self, version: LoadedVersion, path: str, progress: Callable[[float], None]) -> Golden:
        """Put a version on the devices, next to the loaded ones; returns its golden prompts."""
        self._followers.send(messages.LoadVersion(version=_spelled(version), path=path))
        try:
            return self._everywhere(lambda: self._loader.load(version, path, progress))
        except Exception:
            self.drop(version)
            raise

    def stage(self, path: str, progress: Callable[[float], None]) -> tuple[GroupStaged, Golden]:
        """Read a version into the memory of every host."""
        number = next(self._numbers)
        self._followers.send(messages.Stage(number=number, path=path))
        try:
            leaves, golden = self._everywhere(lambda: self._loader.stage(path, progress))
        except Exception:
            self._followers.send(messages.Forget(number=number))
            raise
        return GroupStaged(leaves, number), golden

    def exchange(self, out: LoadedVersion, into: LoadedVersion, staged: GroupStaged) -> None:
        """Put the staged version in the place of `out`; `out` is staged afterwards."""
        self._followers.send(
            messages.Exchange(out=_spelled(out), into=_spelled(into), number=staged.number)
        )
        self._everywhere(lambda: self._loader.exchange(out, into, staged.leaves))

    def forget(self, staged: GroupStaged) -> None:
        """Free the staged version on the followers; on this host it is freed with `staged`."""
        self._followers.send(messages.Forget(number=staged.number))

    def drop(self, version: LoadedVersion) -> None:
        """Free a version's weights."""
        self._followers.send(messages.Drop(version=_spelled(version)))
        self._loader.drop(version)

    def _everywhere[T](self, here: Callable[[], T]) -> T:
        """Do this host's part while the followers do theirs. Raises the error of any host."""
        try:
            result = here()
        finally:
            answers = self._followers.hear(messages.Done)
        for index, answer in answers.items():
            if answer.error:
                # `may_pass` looks for such a cause.
                cause = OSError(answer.error) if answer.may_pass else None
                raise CheckpointError(f"host {index}: {answer.error}") from cause
        return result


def settle(executor: Executor, followers: Followers) -> None:
    """Wait until every follower is warm. Raises CheckpointError if one has read other weights."""
    for index, ready in followers.hear(messages.Ready).items():
        if ready.weights != executor.weights_digest:
            raise CheckpointError(
                f"host {index} has read other weights than host 0: their antipode.json differ; a "
                "version must never be written twice, so publish it under another number"
            )


class Replica:
    """Executes the leader's frames on a follower, in their order.

    A separate thread reads files, because steps go on meanwhile.
    """

    def __init__(
        self, executor: Executor, loader: VersionLoader[HostLeaves], leader: Leader
    ) -> None:
        self._executor, self._loader, self._leader = executor, loader, leader
        self._staged: dict[int, HostLeaves] = {}
        self._in_flight: deque[StepOutput] = deque()
        self._reads: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        blueprint = executor.blueprint
        self._slot = empty_slot(blueprint.sizes.slot, 0, 0)
        self._draw_like = blueprint.sizes.empty_draw()
        self._inputs = {
            bucket: blueprint.sizes.empty_input(bucket) for bucket in blueprint.ladder.buckets
        }

    def run(self) -> None:
        """Follow until the leader sends Stop. Raises this host's errors, which end the group."""
        # Without an answer to each read the leader would wait for good.
        guarded(self._read, "reads", on_fault=end_process, goes_on=False).start()
        while not isinstance(frame := self._leader.hear(), messages.Stop):
            self._follow(frame)

    def _follow(self, frame: messages.ToFollower) -> None:
        match frame:
            case messages.RunStep():
                self._step(frame)
            case messages.SetSlot():
                self._executor.set_slot(from_bytes(frame.arrays, self._slot))
            case messages.Draw():
                self._executor.draw(frame.num_rows, from_bytes(frame.arrays, self._draw_like))
            case messages.Encode():
                image = self._executor.blueprint.sizes.empty_image()
                version = LoadedVersion(*frame.version)
                self._executor.encode(version, from_bytes(frame.arrays, image))
            case messages.LoadVersion():
                self._reads.put(lambda: self._answer(lambda: self._load(frame)))
            case messages.Stage():
                self._reads.put(lambda: self._answer(lambda: self._stage(frame)))
            case messages.Exchange():
                self._answer(lambda: self._exchange(frame))
            case messages.Drop():
                self._loader.drop(LoadedVersion(*frame.version))
            case messages.Forget():
                self._staged.pop(frame.number, None)
            case _:
                raise ValueError(f"host 0 sent {frame!r}, which a follower does not execute")

    def _step(self, step: messages.RunStep) -> None:
        bucket = Bucket(*step.bucket)
        inputs = from_bytes(step.arrays, self._inputs[bucket])
        version = LoadedVersion(*step.version)
        self._in_flight.append(self._executor.step(bucket, version, inputs))
        # Nothing reads these outputs, so an error of the device is noticed only here.
        if len(self._in_flight) >= _MAX_IN_FLIGHT:
            jax.block_until_ready(self._in_flight.popleft())

    def _load(self, load: messages.LoadVersion) -> None:
        version = LoadedVersion(*load.version)
        self._loader.load(version, load.path, lambda fraction: None)

    def _stage(self, stage: messages.Stage) -> None:
        leaves, _ = self._loader.stage(stage.path, lambda fraction: None)
        self._staged[stage.number] = leaves

    def _exchange(self, exchange: messages.Exchange) -> None:
        out, into = LoadedVersion(*exchange.out), LoadedVersion(*exchange.into)
        self._loader.exchange(out, into, self._staged[exchange.number])

    def _read(self) -> None:
        while True:
            self._reads.get()()

    def _answer(self, do: Callable[[], None]) -> None:
        done = messages.Done(error="")
        try:
            do()
        except Exception as error:
            done = messages.Done(error=str(error) or repr(error), may_pass=may_pass(error))
        self._leader.send(done)


def to_bytes(arrays: NamedTuple) -> bytes:
    """The arrays' bytes, one after another; the receiver knows their shapes."""
    return b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(arrays))


def from_bytes[T: NamedTuple](data: bytes, like: T) -> T:
    """The arrays in the shapes and types of `like`. Raises ValueError for another length."""
    leaves, treedef = jax.tree.flatten(like)
    arrays, start = [], 0
    for leaf in leaves:
        size = leaf.size * leaf.dtype.itemsize
        arrays.append(np.frombuffer(data, leaf.dtype, leaf.size, start).reshape(leaf.shape))
        start += size
    if start != len(data):
        raise ValueError(f"expected arrays of {start} bytes, received {len(data)}")
    same: T = jax.tree.unflatten(treedef, arrays)
    return same


def _spelled(version: LoadedVersion) -> tuple[str, int]:
    return version.name, version.number
