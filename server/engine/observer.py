"""What the step loop tells the metrics, step by step and request by request.

Only names and units: neither how things are counted nor how they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

type StepKind = Literal["prefill", "decode", "mixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """One finished step. `duration` is the seconds it had the device, queueing left out.

    `inter_token_seconds`: for every token but a choice's first, the time since the one before.
    """

    kind: StepKind
    duration: float
    num_tokens: int
    num_padded_tokens: int
    num_generated_tokens: int
    inter_token_seconds: tuple[float, ...]


class Observer(Protocol):
    """Called by the step loop; must not block. A request counts once, whatever its choices."""

    def on_step(self, stats: StepStats) -> None: ...

    def on_preempted(self, num_preempted: int) -> None: ...

    def on_admitted(
        self, queue_seconds: float, num_prompt_tokens: int, num_cached_tokens: int
    ) -> None:
        """A request's first choice runs for the first time."""

    def on_first_token(self, seconds: float) -> None:
        """Seconds from a request's arrival to its first token."""

    def on_finished(
        self, outcome: str, seconds: float, seconds_per_output_token: float | None
    ) -> None:
        """An accepted request ended, `seconds` after its arrival.

        `outcome`: stop, length, abort, or the name of an error. `seconds_per_output_token` is the
        mean over the first choice's tokens after the first, None when it has no such.
        """

    def on_refused(self, outcome: str) -> None:
        """A request was not taken in: the name of the error."""
