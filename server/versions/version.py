"""A version as the engine process knows it, and what its life is made of.

Types and protocols only: who loads weights, who is told, what is known. Nothing here acts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from models.checkpoint.manifest import Golden
from server.engine.policy.sequence import LoadedVersion
from server.link.frames import EngineErrorKind, SwapPolicy, VersionState


class VersionError(Exception):
    """A command that cannot be done; the message says why, and what to do."""

    def __init__(self, message: str, kind: EngineErrorKind = "conflict") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(slots=True, eq=False)
class Version:
    """What is known of a version, whatever `ServedVersions` knows aside.

    `staged` are its weights in host memory, where they are there.
    """

    name: str
    path: str
    state: VersionState = "START"
    staged: Any = None
    golden: Golden | None = None
    progress: float = 0.0
    message: str = ""


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
