"""The choices that follow steps: each row that a grammar limits draws of the tokens it allows.

What a grammar allows depends on the token before. So a choice is dispatched only when that token is
on the host, while the device still computes the step that the choice follows: no step waits for the
host. Knows neither grammars nor the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from server.engine.policy.sequence import SequenceState
from server.engine.policy.step import ScheduledBatch, ScheduledRow
from server.engine.programs.blueprint import Blueprint
from server.engine.programs.sampler import Drawn
from server.engine.programs.step_input import ChoiceInput, pack_choice, stack_choices
from server.grammar.masks import MaskedRow, MaskWriter


@dataclass(slots=True, eq=False)
class Choice:
    """The choice of one step. `rows` are its constrained rows, by place in the output of all ranks.

    `errors` says, by place, which grammars allow nothing. `drawn` is None until it is dispatched.
    """

    num_rows: int
    rows: Sequence[tuple[int, ScheduledRow]]
    inputs: Sequence[ChoiceInput]
    errors: dict[int, str] = field(default_factory=dict)
    drawn: Drawn | None = None


class Choices:
    """Prepares and dispatches choices by `choose`, one step at a time."""

    def __init__(self, blueprint: Blueprint, choose: Callable[[int, ChoiceInput], Drawn]) -> None:
        self._sizes, self._choose = blueprint.sizes, choose
        self._masks = MaskWriter(blueprint.config.vocab_size)
        self._pending: Choice | None = None

    def prepare(self, batch: ScheduledBatch, num_rows: int) -> Choice | None:
        """Note what the choice of a step needs of its sequences now; None if no row needs one."""
        if not any(row.is_constrained for row in batch.rows):
            return None
        sizes = self._sizes
        rows, inputs = [], []
        for rank in range(sizes.num_ranks):
            of_rank = batch.of_rank(rank)
            inputs.append(pack_choice(of_rank, num_rows, sizes.num_words, sizes.scratch_slot))
            first = rank * num_rows
            rows += [(first + i, row) for i, row in enumerate(of_rank) if row.is_constrained]
        self._pending = Choice(num_rows, rows, inputs)
        return self._pending

    def dispatch_pending(self) -> None:
        """Dispatch the choice of the last step, before another step."""
        if self._pending is not None:
            self.dispatch(self._pending)

    def dispatch(self, choice: Choice) -> Drawn:
        """Dispatch a choice, unless that was done. The tokens before it are known."""
        if choice.drawn is None:
            self._pending = None
            self._write_masks(choice)
            choice.drawn = self._choose(choice.num_rows, stack_choices(list(choice.inputs)))
        return choice.drawn

    def _write_masks(self, choice: Choice) -> None:
        """A sequence that has ended meanwhile keeps a mask that allows everything."""
        going_on = [(i, r) for i, r in choice.rows if r.seq.state is not SequenceState.FINISHED]
        for rank, inputs in enumerate(choice.inputs):
            first = rank * choice.num_rows
            of_rank = [(i - first, row) for i, row in going_on if row.seq.rank == rank]
            self._masks.write([_masked(i, row) for i, row in of_rank], inputs.allowed_SW)
        choice.errors.update(
            (i, row.seq.matcher.error)
            for i, row in going_on
            if row.seq.matcher is not None and row.seq.matcher.error
        )


def _masked(place: int, row: ScheduledRow) -> MaskedRow:
    seq = row.seq
    assert seq.matcher is not None
    first = seq.num_prompt_tokens + seq.matcher.num_tokens
    num_generated = row.end - seq.num_prompt_tokens
    withheld = seq.stop_token_ids if num_generated < seq.params.min_tokens else frozenset()
    if seq.params.ignore_eos:
        withheld = withheld.union(seq.eos_token_ids)
    return MaskedRow(place, seq.matcher, seq.token_ids[first : row.end], withheld)
