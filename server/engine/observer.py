"""What the step loop reports to the metrics, per step and per request.

It defines only names and units. Knows neither how numbers are counted nor how they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

type StepKind = Literal["prefill", "decode", "mixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """One finished step. `duration` is the seconds it had the device, without queueing.

    `inter_token_seconds` has the time since the token before, for every token but a choice's first.
    `drafts` has a pair for each row with drafts: how many it had, and how many came true.
    """

    kind: StepKind
    duration: float
    num_tokens: int
    num_padded_tokens: int
    num_generated_tokens: int
    inter_token_seconds: tuple[float, ...]
    drafts: tuple[tuple[int, int], ...] = ()


class Observer(Protocol):
    """Called by the step loop; must not block. A request with several choices counts once."""

    def on_step(self, stats: StepStats) -> None: ...

    def on_preempted(self, num_preempted: int) -> None: ...

    def on_admitted(
        self, queue_seconds: float, num_prompt_tokens: int, num_cached_tokens: int
    ) -> None:
        """A request's first choice runs for the first time."""

    def on_first_token(self, seconds: float) -> None:
        """Seconds from a request's arrival to its first token."""

    def on_finished(
        self,
        outcome: str,
        seconds: float,
        seconds_per_output_token: float | None,
        *,
        is_hopeless: bool = False,
    ) -> None:
        """An accepted request ended, `seconds` after its arrival.

        `outcome` is stop, length, abort, or the name of an error. `seconds_per_output_token` is the
        mean over the first choice's tokens after the first token; None if there are none.
        `is_hopeless`: its time limit was too short for any server.
        """

    def on_refused(self, outcome: str, *, is_hopeless: bool = False) -> None:
        """A request was refused; `outcome` is the name of the error."""

    def on_key_use(self, key: str, num_prompt_tokens: int, num_generated_tokens: int) -> None:
        """A call of the API key named `key` has ended, and used these tokens."""
