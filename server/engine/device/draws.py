"""The draws that follow steps: each row that a grammar limits draws of the tokens it allows.

What a grammar allows depends on the token before. So a draw is dispatched only when that token is
on the host, while the device still computes the step that the draw follows: no step waits for the
host. Knows neither grammars nor the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from server.engine.policy.sequence import Sequence, SequenceState
from server.engine.policy.step import ScheduledBatch, ScheduledRow
from server.engine.programs.blueprint import Blueprint
from server.engine.programs.sampler import Drawn
from server.engine.programs.step_input import DrawInput, pack_draw, stack_draws
from server.grammar.masks import MaskedRow, MaskWriter


@dataclass(slots=True, eq=False)
class Tile:
    """As many rows as one draw has, at the most. `inputs` are by data rank.

    `rows` are by place in the draw's output. `drawn` is None until the draw is dispatched.
    """

    inputs: list[DrawInput]
    rows: dict[int, ScheduledRow]
    drawn: Drawn | None = None


@dataclass(slots=True, eq=False)
class Draw:
    """The draws for all constrained rows of one step of `num_rows` rows per data rank.

    `errors` says, by sequence, which grammars allow nothing.
    """

    num_rows: int
    tiles: list[Tile]
    errors: dict[Sequence, str] = field(default_factory=dict)

    @property
    def is_dispatched(self) -> bool:
        return self.tiles[-1].drawn is not None

    def places(self) -> dict[Sequence, tuple[int, int]]:
        """Each sequence's tile, and its place in the tile's output."""
        return {
            row.seq: (number, place)
            for number, tile in enumerate(self.tiles)
            for place, row in tile.rows.items()
        }


class Draws:
    """Prepares and dispatches draws by `call`, one step at a time."""

    def __init__(self, blueprint: Blueprint, call: Callable[[int, DrawInput], Drawn]) -> None:
        self._sizes, self._call = blueprint.sizes, call
        self._masks = MaskWriter(blueprint.config.vocab_size)
        self._pending: Draw | None = None

    def prepare(self, batch: ScheduledBatch, num_rows: int) -> Draw | None:
        """Note what the draw of a step needs of its sequences now; None if no row needs one."""
        of_ranks = [
            {i: row for i, row in enumerate(batch.of_rank(rank)) if row.is_constrained}
            for rank in range(self._sizes.num_ranks)
        ]
        num_constrained = max(map(len, of_ranks))
        if not num_constrained:
            return None
        starts = range(0, num_constrained, self._sizes.draw_rows)
        self._pending = Draw(num_rows, [self._tile(of_ranks, start) for start in starts])
        return self._pending

    def dispatch_pending(self) -> None:
        """Dispatch the draw of the last step, before another step."""
        if self._pending is not None:
            self.dispatch(self._pending)

    def dispatch(self, draw: Draw) -> None:
        """Dispatch a draw, unless that was done. The tokens before it are known."""
        if draw.is_dispatched:
            return
        self._pending = None
        for tile in draw.tiles:
            self._write_masks(draw, tile)
            tile.drawn = self._call(draw.num_rows, stack_draws(tile.inputs))

    def _tile(self, of_ranks: list[dict[int, ScheduledRow]], start: int) -> Tile:
        sizes = self._sizes
        tile = Tile([], {})
        for rank, rows in enumerate(of_ranks):
            part = dict(islice(rows.items(), start, start + sizes.draw_rows))
            tile.inputs.append(
                pack_draw(part, sizes.draw_rows, sizes.num_words, sizes.scratch_slot)
            )
            first = rank * sizes.draw_rows
            tile.rows |= dict(enumerate(part.values(), start=first))
        return tile

    def _write_masks(self, draw: Draw, tile: Tile) -> None:
        """A sequence that has ended meanwhile keeps a mask that allows everything."""
        for rank, inputs in enumerate(tile.inputs):
            first = rank * self._sizes.draw_rows
            rows = [
                _masked(place - first, row)
                for place, row in tile.rows.items()
                if row.seq.rank == rank and row.seq.state is not SequenceState.FINISHED
            ]
            self._masks.write(rows, inputs.allowed_SW)
        for row in tile.rows.values():
            if row.seq.matcher is not None and row.seq.matcher.error:
                draw.errors[row.seq] = row.seq.matcher.error


def _masked(place: int, row: ScheduledRow) -> MaskedRow:
    seq = row.seq
    assert seq.matcher is not None
    first = seq.num_prompt_tokens + seq.matcher.num_tokens
    num_generated = row.end - seq.num_prompt_tokens
    withheld = seq.stop_token_ids if num_generated < seq.params.min_tokens else frozenset()
    if seq.params.ignore_eos:
        withheld = withheld.union(seq.eos_token_ids)
    return MaskedRow(place, seq.matcher, seq.token_ids[first : row.end], withheld)
