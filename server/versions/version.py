"""A version as the engine process knows it, and what its life is made of.

Types and protocols only: who loads weights, who is told, what is known. Nothing here acts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from models.checkpoint.gcs import GcsAccessError, is_gcs
from models.checkpoint.manifest import Golden
from server.engine.policy.sequences.sequence import LoadedVersion
from server.link.frames import EngineErrorKind, SwapPolicy
from server.link.status import VersionState


class VersionError(Exception):
    """A command that cannot be done; the message says why, and what to do."""

    def __init__(self, message: str, kind: EngineErrorKind = "conflict") -> None:
        super().__init__(message)
        self.kind = kind


class BusyError(VersionError):
    """A version that still has sequences after a time."""


class UnpublishedError(ValueError):
    """A version without a manifest: it may be half written."""


def may_pass(error: BaseException | None) -> bool:
    """Whether the same load may succeed later: a disk, mount, bucket or token caused the error.

    A version that was read and found wrong stays wrong, because nobody changes a version.
    """
    while error is not None:
        if isinstance(error, OSError | GcsAccessError | UnpublishedError | BusyError):
            return True
        error = error.__cause__ or error.__context__
    return False


@dataclass(slots=True, eq=False)
class Version:
    """What is known of a version, whatever `ServedVersions` knows aside.

    `key` is the name of its loaded versions. `asked` is `path` as it was spelled when the server
    was started with it. `staged` are its weights in host memory, where they are there.
    """

    name: str
    path: str
    state: VersionState = "START"
    staged: Any = None
    golden: Golden | None = None
    progress: float = 0.0
    message: str = ""
    key: str = ""
    asked: str = ""

    def __post_init__(self) -> None:
        self.key = self.key or self.name

    def is_at(self, path: str) -> bool:
        """Whether it was read from there, however that is spelled."""
        return path in (self.path, self.asked) or _place(path) == _place(self.path)


def _place(path: str) -> str:
    return path.rstrip("/") if is_gcs(path) else os.path.realpath(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapSettings:
    """Times in seconds. `swap_timeout` is how long sequences may take to leave a version."""

    policy: SwapPolicy
    watch_window: float
    swap_timeout: float


class VersionLoader[Staged](Protocol):
    """Reads versions and moves their weights. Raises ValueError or OSError with the reason.

    `progress` is told how far it is, 0 to 1, and may raise to end the load.
    """

    def inspect(self, path: str) -> None:
        """Read nothing but what tells whether a version could take the served one's place."""

    def check_room(self, num_staged: int, num_leaving: int) -> None:
        """ValueError if there is no room to stage one more, once `num_leaving` have left."""

    def load(self, version: LoadedVersion, path: str, progress: Callable[[float], None]) -> Golden:
        """Put a version on the device beside what is there; its golden prompts."""

    def stage(self, path: str, progress: Callable[[float], None]) -> tuple[Staged, Golden]:
        """Read a version into host memory."""

    def exchange(self, out: LoadedVersion, into: LoadedVersion, staged: Staged) -> None:
        """Put what is staged in the place of `out`, which is staged afterwards."""

    def forget(self, staged: Staged) -> None:
        """What is staged will not be asked for again."""

    def drop(self, version: LoadedVersion) -> None:
        """Free a version's weights."""


class SwapObserver(Protocol):
    """Told of every change; called by the manager's thread."""

    def on_swap(self, result: str) -> None: ...

    def on_load(self, seconds: float) -> None: ...

    def on_switch(self, seconds: float) -> None: ...
