"""Which rows of a step of decodes get drafts, and how many.

Drafts need the newest tokens. So a step with drafts is scheduled only when the step before it has
been read, and it is read before the next is scheduled. This decides when that is worth the wait,
and divides a step's room among rows. Knows neither blocks nor programs.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from server.engine.policy.drafts.drafter import Drafter
from server.engine.policy.drafts.step_costs import StepCosts
from server.engine.policy.sequences.sequence import Sequence


@dataclass(frozen=True, slots=True, order=True)
class DraftRoom:
    """A step of at most `num_rows` decodes has room for `num_tokens`, drafts included."""

    num_rows: int
    num_tokens: int


class Speculation:
    """`rooms` are the sizes of steps with drafts; `most` bounds the drafts of a row."""

    def __init__(self, rooms: SequenceOf[DraftRoom], most: int) -> None:
        self._rooms = sorted(rooms)
        self._most = most
        self._costs = StepCosts()
        self._hopeful: list[Sequence] = []

    def note_step(self, num_rows: int, seconds: float, *, has_drafts: bool) -> None:
        """A step of decodes took `seconds`, from the end of the step before it."""
        self._costs.note(num_rows, seconds, has_drafts=has_drafts)

    def may_follow(self, decodes: Collection[Sequence]) -> bool:
        """Whether it is worth reading the step in flight first, because drafts may then follow."""
        room = self._room(len(decodes))
        if room <= 0:
            return False
        # The first of a row's drafts stands for the token that is in flight.
        hopeful = [seq for seq in decodes if len(self._drafts(seq, room + 1)) > 1]
        self._hopeful = hopeful if self._pays(decodes, hopeful) else []
        return bool(self._hopeful)

    def choose(self, decodes: Collection[Sequence]) -> dict[Sequence, list[int]]:
        """Drafts for those rows of a step of only decodes that have some; empty if they don't pay.

        All tokens of `decodes` must be known.
        """
        room = self._room(len(decodes))
        drafts: dict[Sequence, list[int]] = {}
        for seq in decodes:
            if found := self._drafts(seq, room):
                drafts[seq] = found
            elif seq in self._hopeful and seq.drafter is not None:
                seq.drafter.note(0)  # The wait for its token was for nothing.
        self._hopeful = []
        _divide(drafts.values(), room)
        return drafts if self._pays(decodes, drafts) else {}

    def _room(self, num_rows: int) -> int:
        """How many drafts a step of so many decodes has room for."""
        rooms = (each.num_tokens for each in self._rooms if each.num_rows >= num_rows)
        return next(rooms, num_rows) - num_rows

    def _drafts(self, seq: Sequence, room: int) -> list[int]:
        # The last token that a sequence may have is drawn, not drafted.
        most = min(room, self._most, seq.max_num_tokens - seq.num_tokens - 1)
        if most < 1 or not _can_draft(seq):
            return []
        if seq.drafter is None:
            seq.drafter = Drafter()
        return seq.drafter.drafts(seq.token_ids, most)

    def _pays(self, decodes: Collection[Sequence], drafting: Collection[Sequence]) -> bool:
        return bool(drafting) and self._costs.pays(len(decodes), sum(map(_gain, drafting)))


def _divide(drafts: Collection[list[int]], room: int) -> None:
    """Cut the longest until all have room together."""
    for i, found in enumerate(sorted(drafts, key=len)):
        del found[room // (len(drafts) - i) :]
        room -= len(found)


def speculation(rooms: SequenceOf[DraftRoom], most: int) -> Speculation | None:
    """The speculation of one scheduler; None where no step has room for drafts."""
    return Speculation(rooms, most) if rooms else None


def _can_draft(seq: Sequence) -> bool:
    """What a penalty or a grammar does to a token depends on the tokens before it in the step."""
    params = seq.params
    return seq.matcher is None and not (
        params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1
    )


def _gain(seq: Sequence) -> float:
    return seq.drafter.gain if seq.drafter is not None else 1.0
