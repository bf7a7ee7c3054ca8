"""The draws that follow steps: each row that a grammar limits draws of the tokens it allows.

What a grammar allows depends on the token before. So a draw is dispatched only when that token is
on the host, while the device still computes the step that the draw follows: no step waits for the
host. Knows neither grammars nor the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Protocol

import numpy as np

from server.engine.policy.sequences.sequence import Sequence, SequenceState
from server.engine.policy.sequences.step import ScheduledBatch, ScheduledRow
from server.engine.programs.blueprint.blueprint import Blueprint
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.packing import draw_places, pack_draw
from server.engine.programs.inputs.step_input import DrawInput, stack_draws
from server.engine.programs.sampling.sampler import Drawn
from server.grammar.masks import MaskedRow, MaskWriter


class DrawExecutor(Protocol):
    """Executes draws, on this host or on every host of the slice."""

    def draw(self, num_rows: int, inputs: DrawInput) -> Drawn: ...


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
    """The draws for all constrained rows of one step.

    The step has logits for `num_rows` places per data rank. `errors` says, by sequence, which
    grammars allow nothing.
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
    """Prepares and dispatches the draws of one step at a time."""

    def __init__(self, blueprint: Blueprint, executor: DrawExecutor) -> None:
        self._blueprint, self._executor = blueprint, executor
        self._pending: Draw | None = None

    def prepare(self, batch: ScheduledBatch, bucket: Bucket) -> Draw | None:
        """Note what the draw of a step needs of its sequences now; None if no row needs one."""
        ranks = map(batch.of_rank, range(self._blueprint.sizes.num_ranks))
        of_ranks = [
            {
                i: row
                for i, row in zip(draw_places(rows, bucket), rows, strict=True)
                if row.is_constrained
            }
            for rows in ranks
        ]
        num_constrained = max(map(len, of_ranks))
        if not num_constrained:
            return None
        starts = range(0, num_constrained, self._blueprint.sizes.draw_rows)
        self._pending = Draw(bucket.num_draws, [self._tile(of_ranks, start) for start in starts])
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
        self._write_masks(draw)
        for tile in draw.tiles:
            tile.drawn = self._executor.draw(draw.num_rows, stack_draws(tile.inputs))

    def _tile(self, of_ranks: list[dict[int, ScheduledRow]], start: int) -> Tile:
        sizes = self._blueprint.sizes
        tile = Tile([], {})
        for rank, rows in enumerate(of_ranks):
            part = dict(islice(rows.items(), start, start + sizes.draw_rows))
            tile.inputs.append(
                pack_draw(part, sizes.draw_rows, sizes.num_words, sizes.scratch_slot)
            )
            first = rank * sizes.draw_rows
            tile.rows |= dict(enumerate(part.values(), start=first))
        return tile

    @cached_property
    def _masks(self) -> MaskWriter:
        return MaskWriter(self._blueprint.config.vocab_size)

    def _write_masks(self, draw: Draw) -> None:
        """All at once. A sequence that has ended meanwhile keeps a mask that allows everything."""
        num_rows = self._blueprint.sizes.draw_rows
        rows = [
            (tile.inputs[row.seq.rank].allowed_SW[place % num_rows], row)
            for tile in draw.tiles
            for place, row in tile.rows.items()
        ]
        self._masks.write(
            [_masked(*each) for each in rows if each[1].seq.state is not SequenceState.FINISHED]
        )
        for _, row in rows:
            if row.seq.matcher is not None and row.seq.matcher.error:
                draw.errors[row.seq] = row.seq.matcher.error


def _masked(allowed_W: np.ndarray, row: ScheduledRow) -> MaskedRow:
    seq = row.seq
    assert seq.matcher is not None
    first = seq.num_prompt_tokens + seq.matcher.num_tokens
    num_generated = row.end - seq.num_prompt_tokens
    withheld = seq.stop_token_ids if num_generated < seq.params.min_tokens else frozenset()
    if seq.params.ignore_eos:
        withheld = withheld.union(seq.eos_token_ids)
    return MaskedRow(allowed_W, seq.matcher, seq.token_ids[first : row.end], withheld)
