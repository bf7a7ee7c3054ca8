"""Chooses steps so that the arithmetic of a token depends on its own sequence only.

Two programs run, each of one size: one for chunks of prompts, one for decodes. A step runs one of
them. A prompt is cut at multiples of `max_num_batched_tokens`, and around an image that would be
cut, whatever else waits. A token that
was generated before, here or at another replica, is computed again by the program that computed it
first. Knows neither programs nor rounding: that rows of one program do not change one another is
the programs' promise.
"""

from __future__ import annotations

from typing import Any

from server.engine.policy.sequences.sequence import LoadedVersion, Sequence, SequenceState
from server.engine.policy.sequences.step import ScheduledBatch, ScheduledRow
from server.engine.policy.step_choice import StepChoice


class ExactChoice(StepChoice):
    """Takes turns between steps of chunks and steps of decodes while there are both.

    The blocks must find prefixes only in chunks of `max_num_batched_tokens`.
    """

    def __init__(self, *queues: Any, **limits: Any) -> None:
        super().__init__(*queues, **limits)
        self._has_prefilled = False

    def schedule(self, version: LoadedVersion, now: float) -> ScheduledBatch:
        """A step of chunks or a step of decodes, never of both."""
        before = len(self._running)
        self._make_way(version)
        rows: list[ScheduledRow] = []
        if not (self._has_prefilled and any(map(_wants_decode, self._of(version)))):
            rows = self._schedule_prompts(version, now, before)
        self._has_prefilled = bool(rows)
        rows = rows or self._schedule_decodes(version)
        num_preempted = before + sum(row.is_admitted for row in rows) - len(self._running)
        return ScheduledBatch(tuple(rows), num_preempted, version)

    def _of(self, version: LoadedVersion) -> list[Sequence]:
        return [seq for seq in self._running if seq.version == version]

    def _schedule_prompts(
        self, version: LoadedVersion, now: float, before: int
    ) -> list[ScheduledRow]:
        """Chunks of prompts under way, then of new ones, each whole or not at all.

        `before` sequences ran before anybody was preempted for this step.
        """
        rows, budget = [], self._max_num_batched_tokens
        for seq in self._of(version):
            num_tokens = 0 if _is_past_prompt(seq) else self._chunk(seq, budget)
            if num_tokens and self._make_whole_room(seq, num_tokens):
                rows.append(self._run(seq, num_tokens))
                budget -= num_tokens
        # Who was preempted must not come back before what is in flight for it was read.
        if len(self._running) == before:
            rows += self._begin_prompts(version, budget, now)
        return rows

    def _begin_prompts(self, version: LoadedVersion, budget: int, now: float) -> list[ScheduledRow]:
        """New prompts, by turns. A prompt whose first chunk does not fit whole ends the list."""
        rows: list[ScheduledRow] = []
        if not self._running.num_free_slots:
            return rows
        for seq in self._waiting.in_turn():
            if not self._running.num_free_slots:
                break
            if not self._is_ready(seq, version):
                if (
                    seq is self._waiting.starved
                    and not seq.is_deferred
                    and self._versions.meant_by(seq.version)
                ):
                    break
                continue
            if budget < min(seq.num_prompt_tokens, self._max_num_batched_tokens):
                break
            if not self._admit(seq, version, budget, now, is_overtaking=False):
                break
            num_tokens = self._chunk(seq, budget)
            rows.append(self._run(seq, num_tokens, is_admitted=True))
            budget -= num_tokens
        return rows

    def _schedule_decodes(self, version: LoadedVersion) -> list[ScheduledRow]:
        """One token of every sequence that is past its prompt: its newest, or one to replay."""
        return [
            self._run(seq, 1)
            for seq in self._of(version)
            if _wants_decode(seq) and self._make_room(seq, 1)
        ]

    def _run(self, seq: Sequence, num_scheduled_tokens: int, **marks: Any) -> ScheduledRow:
        is_past_prompt = _is_past_prompt(seq)
        row = super()._run(seq, num_scheduled_tokens, **marks)
        is_replay = is_past_prompt and not row.is_sampling
        return row._replace(is_replay=True) if is_replay else row

    def _chunk(self, seq: Sequence, budget: int) -> int:
        """The rest of the chunk of the prompt that is next; 0 where it exceeds the budget.

        An image that lies across the end of a chunk is a chunk by itself.
        """
        size, computed = self._max_num_batched_tokens, seq.num_computed_tokens
        end = min(computed - computed % size + size, seq.num_prompt_tokens)
        num_tokens = seq.before_image(end) - computed
        if not num_tokens:
            num_tokens = next(i.num_tokens for i in seq.images if i.start == computed)
        return num_tokens if num_tokens <= budget else 0

    def _make_whole_room(self, seq: Sequence, wanted: int) -> bool:
        """Whether `seq` has blocks for all of a chunk, preempting from the end where it has not."""
        while seq.state is SequenceState.RUNNING:
            if self._blocks.grow(seq, wanted, others=self._running) == wanted:
                return True
            self.preempt(self._running.last_from(seq))
        return False


def _is_past_prompt(seq: Sequence) -> bool:
    return seq.num_computed_tokens >= seq.num_prompt_tokens


def _wants_decode(seq: Sequence) -> bool:
    return _is_past_prompt(seq) and seq.num_uncomputed_tokens > 0
