"""The messages between the hosts of a slice, from the welcome to the last step.

Host 0 is the leader: it serves and schedules. The other hosts are followers: they do on their
devices what the leader does on its own, in the same order. Each direction has its own tagged union,
sent as msgpack behind a length. This module knows neither sockets nor what a step computes.
"""

from __future__ import annotations

import msgspec

from server.config.engine_config import EngineConfig
from server.link.framing import Codec
from server.slice.chips import ChipUse


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """The sender is still there. Both sides send it all the time."""


class Chosen(msgspec.Struct, frozen=True, kw_only=True, tag="chosen"):
    """How a follower reaches the leader. The frame itself comes over the pods' network.

    `interface` is "" where the follower stays on the pods' network. Otherwise it names the claimed
    interface on which the follower has proved itself a second time.
    """

    interface: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True, tag="facts"):
    """A follower's devices: bytes of the smallest, or None where the devices do not report them."""

    chip_bytes: int | None


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """A follower is loaded and warm. `weights` is the checksum of its published weights, or ""."""

    weights: str


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """A follower has changed versions, or could not: `error` says why, and is empty otherwise.

    With `may_pass` the same change may succeed later.
    """

    error: str
    may_pass: bool = False


class Leaving(msgspec.Struct, frozen=True, tag="leaving"):
    """A follower was asked to end. It follows until the leader has finished what it serves."""


class Chips(msgspec.Struct, frozen=True, kw_only=True, tag="chips"):
    """The latest use of a follower's chips."""

    use: ChipUse


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """A follower is about to exit."""

    message: str


type ToLeader = Beat | Chosen | Facts | Ready | Done | Leaving | Chips | Failed


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """All hosts are here. `config` applies to all hosts; `addresses` are the leader's claimed ones.

    `version` is the name of the model version in `config.model`.
    """

    config: EngineConfig
    version: str
    addresses: tuple[str, ...]


class Agreed(msgspec.Struct, frozen=True, kw_only=True, tag="agreed"):
    """The smallest facts over all hosts, from which every host derives the same programs."""

    chip_bytes: int | None


class SetSlot(msgspec.Struct, frozen=True, kw_only=True, tag="slot"):
    """Set one sequence's state. `arrays` are the arrays of a SlotInput."""

    arrays: bytes


class RunStep(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """Run one step: its bucket, the name and number of its version, and a StepInput's arrays."""

    bucket: tuple[int, int, bool, int]
    version: tuple[str, int]
    arrays: bytes


class Encode(msgspec.Struct, frozen=True, kw_only=True, tag="encode"):
    """Make rows of an image of each rank, for the next step: a version, an ImageInput's arrays."""

    version: tuple[str, int]
    arrays: bytes


class Draw(msgspec.Struct, frozen=True, kw_only=True, tag="draw"):
    """Draw for constrained rows of the last step: how many it had, and a DrawInput's arrays."""

    num_rows: int
    arrays: bytes


class LoadVersion(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Put a version on the devices, next to the loaded ones. The answer is Done."""

    version: tuple[str, int]
    path: str


class Stage(msgspec.Struct, frozen=True, kw_only=True, tag="stage"):
    """Read a version into host memory; its number will be `number`. The answer is Done."""

    number: int
    path: str


class Exchange(msgspec.Struct, frozen=True, kw_only=True, tag="exchange"):
    """Put the staged version in the place of the version `out`. The answer is Done."""

    out: tuple[str, int]
    into: tuple[str, int]
    number: int


class Drop(msgspec.Struct, frozen=True, kw_only=True, tag="drop"):
    """Free a version's weights."""

    version: tuple[str, int]


class Forget(msgspec.Struct, frozen=True, kw_only=True, tag="forget"):
    """Free the staged version."""

    number: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """All work is done: exit with code 0."""


class Lost(msgspec.Struct, frozen=True, kw_only=True, tag="lost"):
    """The group ends; `message` says why."""

    message: str


type ToFollower = (
    Beat
    | Welcome
    | Agreed
    | SetSlot
    | RunStep
    | Draw
    | Encode
    | LoadVersion
    | Stage
    | Exchange
    | Drop
    | Forget
    | Stop
    | Lost
)


def leader_codec() -> Codec[ToFollower, ToLeader]:
    """The codec of the leader's end of a connection."""
    return Codec(ToLeader.__value__)


def follower_codec() -> Codec[ToLeader, ToFollower]:
    """The codec of a follower's end of a connection."""
    return Codec(ToFollower.__value__)
