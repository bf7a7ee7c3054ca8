"""What the step loop asks of whoever decides what runs.

That is one scheduler, or one for every data rank.
"""

from __future__ import annotations

from typing import Protocol

from server.engine.policy.scheduler import SequenceEvent
from server.engine.policy.sequence import LoadedVersion, Sequence
from server.engine.policy.served_versions import ServedVersions
from server.engine.policy.step import ScheduledBatch, StepResult
from server.link.frames import EngineErrorKind, FinishReason, TokenEvent


class Policy(Protocol):
    """See `Scheduler`, whose methods these are."""

    @property
    def num_running(self) -> int: ...

    @property
    def num_waiting_requests(self) -> int: ...

    @property
    def num_unfinished(self) -> int: ...

    @property
    def num_free_blocks(self) -> int: ...

    @property
    def num_usable_blocks(self) -> int: ...

    @property
    def is_queue_full(self) -> bool: ...

    @property
    def versions(self) -> ServedVersions: ...

    def retarget(self) -> None: ...

    def users(self, version: LoadedVersion) -> list[Sequence]: ...

    def withdraw(self, version: LoadedVersion) -> None: ...

    def add(self, seqs: list[Sequence], now: float, *, first: bool = False) -> None: ...

    def schedule(self, now: float) -> ScheduledBatch: ...

    def postprocess(self, batch: ScheduledBatch, result: StepResult) -> list[SequenceEvent]: ...

    def expire(self, now: float) -> list[SequenceEvent]: ...

    def fail(self, seq: Sequence, error: EngineErrorKind, message: str) -> TokenEvent: ...

    def finish(
        self, seq: Sequence, reason: FinishReason, error: EngineErrorKind | None = None
    ) -> None: ...

    def check_integrity(self) -> None: ...
