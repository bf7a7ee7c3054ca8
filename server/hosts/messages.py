"""What the hosts of a slice say to each other, from the first greeting to the last step.

Host 0 is the leader: it serves and schedules. The others follow: what it does to its devices they
do to theirs, in the same order. Each direction has its own tagged union, msgpack behind a length.
This module knows neither sockets nor what a step computes.
"""

from __future__ import annotations

import msgspec

from server.config import EngineConfig
from server.link.codec import Codec
from server.slice.chips import ChipUse


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Still here. Both sides say it, whatever else they say."""


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """A follower's first words. `software` is what must be the same on all hosts."""

    index: int
    software: str


class Chosen(msgspec.Struct, frozen=True, kw_only=True, tag="chosen"):
    """How a follower reaches the leader: "" for the pod's network, which this comes by.

    Otherwise by the named interface, where it has said `Hello` a second time.
    """

    interface: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True, tag="facts"):
    """What a follower's devices have: bytes of the smallest, None where they do not say."""

    chip_bytes: int | None


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """Loaded and warm. `weights` tells weights apart: a checksum of what was published, or ""."""

    weights: str


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """A change of versions has been made, or could not be: `error` says why, empty if it was."""

    error: str


class Leaving(msgspec.Struct, frozen=True, tag="leaving"):
    """A follower was told to end. It follows until the leader has finished what it serves."""


class Chips(msgspec.Struct, frozen=True, kw_only=True, tag="chips"):
    """How a follower's chips were used of late."""

    use: ChipUse


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """A follower is about to exit."""

    message: str


type ToLeader = Beat | Hello | Chosen | Facts | Ready | Done | Leaving | Chips | Failed


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """All hosts are here. `config` holds for all; `addresses` are the leader's claimed ones.

    `version` is the name of the model's version in `config.model`.
    """

    config: EngineConfig
    version: str
    addresses: tuple[str, ...]


class Agreed(msgspec.Struct, frozen=True, kw_only=True, tag="agreed"):
    """The least of all hosts' facts, from which every host derives the same programs."""

    chip_bytes: int | None


class SetSlot(msgspec.Struct, frozen=True, kw_only=True, tag="slot"):
    """Set one sequence's state: the arrays of a SlotInput."""

    arrays: bytes


class RunStep(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """Run one step: its bucket, its version's name and number, the arrays of its StepInput."""

    bucket: tuple[int, int, bool]
    version: tuple[str, int]
    arrays: bytes


class LoadVersion(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Put a version on the devices, beside what is there. Answered by Done."""

    version: tuple[str, int]
    path: str


class Stage(msgspec.Struct, frozen=True, kw_only=True, tag="stage"):
    """Read a version into host memory, to be called `number`. Answered by Done."""

    number: int
    path: str


class Exchange(msgspec.Struct, frozen=True, kw_only=True, tag="exchange"):
    """Put what is staged in the place of the version `out`. Answered by Done."""

    out: tuple[str, int]
    into: tuple[str, int]
    number: int


class Drop(msgspec.Struct, frozen=True, kw_only=True, tag="drop"):
    """Free a version's weights."""

    version: tuple[str, int]


class Forget(msgspec.Struct, frozen=True, kw_only=True, tag="forget"):
    """Free what is staged."""

    number: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Everything is done: exit with code 0."""


class Lost(msgspec.Struct, frozen=True, kw_only=True, tag="lost"):
    """The group ends, and why."""

    message: str


type ToFollower = (
    Beat
    | Welcome
    | Agreed
    | SetSlot
    | RunStep
    | LoadVersion
    | Stage
    | Exchange
    | Drop
    | Forget
    | Stop
    | Lost
)


def leader_codec() -> Codec[ToFollower, ToLeader]:
    """The codec of the leader's end."""
    return Codec(ToLeader.__value__)


def follower_codec() -> Codec[ToLeader, ToFollower]:
    """The codec of a follower's end."""
    return Codec(ToFollower.__value__)
