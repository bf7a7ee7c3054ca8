"""Runs scheduled batches on the device: turns rows into arrays, and arrays into results.

A batch names its version; all versions use the same programs. The executor owns all arrays, and
this module has none of the engine's policy. `execute` only dispatches; `read` waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import numpy as np

from models.checkpoint.files import Files, LocalFiles
from server.config.engine_config import EngineConfig
from server.engine.device.compiling import Progress
from server.engine.device.draws import Draw, DrawExecutor, Draws
from server.engine.device.executor import Executor
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.drafts.drafter import num_accepted
from server.engine.policy.image_admission import ReadableImage
from server.engine.policy.sequences.block_moves import BlockMoves
from server.engine.policy.sequences.loaded_adapter import LoadedAdapter
from server.engine.policy.sequences.pooling import pooled_positions
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.sequences.step import RowResult, ScheduledBatch, ScheduledRow, StepResult
from server.engine.policy.speculation import DraftRoom
from server.engine.programs.blueprint.blueprint import Blueprint
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.image_input import ImageInput, pack_image, stack_images
from server.engine.programs.inputs.packing import pack
from server.engine.programs.inputs.slot_input import SlotInput, needs_slot_state, pack_slot
from server.engine.programs.inputs.step_input import StepInput, stack_ranks
from server.engine.programs.sampling.sampler import Drawn, Logprobs
from server.engine.programs.step_output import StepOutput
from server.link.frames import TokenLogprobs


class StepExecutor(DrawExecutor, Protocol):
    """Executes packed batches, on this host or on every host of the slice."""

    def set_slot(self, slot: SlotInput) -> None: ...

    def step(self, bucket: Bucket, version: LoadedVersion, inputs: StepInput) -> StepOutput: ...

    def place_adapter(self, adapter: LoadedAdapter, number: int) -> None: ...

    def move_blocks(self, moves: tuple[BlockMoves, ...]) -> None: ...

    def encode(self, version: LoadedVersion, inputs: ImageInput) -> None: ...


@dataclass(frozen=True, slots=True)
class InFlight:
    """A dispatched step: its batch, its bucket, its output arrays and its draw, if it has one."""

    batch: ScheduledBatch
    bucket: Bucket
    output: StepOutput
    draw: Draw | None


class _HostDrawn(NamedTuple):
    """What was drawn, as lists: one number of an array costs as much to read as hundreds."""

    token_ids: list[int]
    is_finite: list[bool]
    logprobs: Logprobs | None


class ModelRunner:
    """Runs batches with `executor`, which must be loaded and warm.

    The draw of a step's constrained rows follows as late as possible, before the next step or
    before it is read: only then the host knows the tokens that the grammars must have taken.
    """

    def __init__(self, blueprint: Blueprint, executor: StepExecutor) -> None:
        self._blueprint, self._executor = blueprint, executor
        self._draws = Draws(blueprint, executor)

    @classmethod
    def build(
        cls,
        checkpoint: Path | Files,
        engine: EngineConfig,
        progress: Progress = lambda detail, fraction: None,
        version: LoadedVersion | None = None,
    ) -> ModelRunner:
        """The runner of a single host. Raises the errors of `Executor.build`."""
        files = LocalFiles(checkpoint) if isinstance(checkpoint, Path) else checkpoint
        executor = Executor.build(files, engine, progress, version or LoadedVersion())
        return cls(executor.blueprint, executor)

    @property
    def max_model_len(self) -> int:
        return self._blueprint.sizes.slot.max_model_len

    @property
    def vocab_size(self) -> int:
        return self._blueprint.config.vocab_size

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._blueprint.config.eos_token_ids

    @property
    def is_bidirectional(self) -> bool:
        """Whether a token sees later ones, so that a step must hold all of a prompt."""
        return self._blueprint.config.bidirectional

    @property
    def num_snapshots(self) -> int | None:
        """How many recurrent states are kept for prefixes; None where no layer has a state."""
        sizes = self._blueprint.sizes
        return sizes.num_snapshots if sizes.num_states else None

    @property
    def readable_image(self) -> ReadableImage | None:
        """What an image must be for the model to read it; None where it reads none."""
        images = self._blueprint.sizes.images
        return None if images is None else ReadableImage(images.vision.sizes)

    @property
    def num_ranks(self) -> int:
        return self._blueprint.sizes.num_ranks

    @property
    def kinds(self) -> tuple[KVKind, ...]:
        return self._blueprint.sizes.kinds

    @property
    def block_size(self) -> int:
        return self._blueprint.sizes.block_size

    @property
    def max_num_batched_tokens(self) -> int:
        return self._blueprint.ladder.max_num_batched_tokens

    @property
    def num_host_blocks(self) -> tuple[int, ...]:
        """Blocks of each kind that are kept in host memory; () is none."""
        return self._blueprint.sizes.num_host_blocks

    @property
    def draft_rooms(self) -> tuple[DraftRoom, ...]:
        """The sizes of steps with drafts; none without speculation."""
        return self._blueprint.ladder.draft_rooms

    def execute(self, batch: ScheduledBatch) -> InFlight:
        """Dispatch one step. It reads all it needs of the sequences before it returns."""
        self._draws.dispatch_pending()
        sizes = self._blueprint.sizes
        if batch.moves:
            self._executor.move_blocks(batch.moves)
        for adapter, number in batch.placements:
            self._executor.place_adapter(adapter, number)
        for row in batch.rows:
            if row.is_admitted and needs_slot_state(row.seq):
                self._executor.set_slot(pack_slot(row.seq, sizes.slot))
        bucket = self._blueprint.ladder.choose(batch)
        self._encode_images(batch)
        num_kinds, table, scratch = len(sizes.kinds), sizes.table_size, sizes.scratch_slot
        inputs = stack_ranks(
            [
                pack(
                    batch.of_rank(rank),
                    bucket,
                    num_kinds,
                    table,
                    scratch,
                    has_adapters=sizes.has_adapters,
                    num_states=sizes.num_states,
                    num_images=sizes.num_images_in(bucket),
                )
                for rank in range(sizes.num_ranks)
            ]
        )
        draw = self._draws.prepare(batch, bucket)
        output = self._executor.step(bucket, batch.version, inputs)
        return InFlight(batch, bucket, output, draw)

    def _encode_images(self, batch: ScheduledBatch) -> None:
        """Dispatch what makes rows of the step's images: one of each rank at a time."""
        sizes = self._blueprint.sizes
        if sizes.images is None or not any(row.seq.images for row in batch.rows):
            return
        of_ranks = [
            [image for row in batch.of_rank(rank) for image in row.images]
            for rank in range(sizes.num_ranks)
        ]
        vision, beyond = sizes.images.vision, sizes.images.num_images
        for number, each in enumerate(zip_longest(*of_ranks)):
            packed = [pack_image(i, vision, beyond if i is None else number) for i in each]
            self._executor.encode(batch.version, stack_images(packed))

    def read(self, in_flight: InFlight) -> StepResult:
        """Wait for a step and copy what its rows asked for to the host."""
        batch, output = in_flight.batch, in_flight.output
        draw = in_flight.draw or Draw(0, [])
        if draw.tiles:
            self._draws.dispatch(draw)
        wants_logprobs = any(row.seq.params.num_logprobs >= 0 for row in batch.rows)
        tiles = [tile.drawn for tile in draw.tiles if tile.drawn is not None]
        drawn, *chosen = _to_host([output.drawn, *tiles], wants_logprobs=wants_logprobs)
        places = draw.places()
        wants_prompt = any(row.seq.params.num_prompt_logprobs >= 0 for row in batch.rows)
        prompt = jax.device_get(output.prompt) if wants_prompt and output.prompt else None
        is_pooled = any(row.seq.pooling is not None for row in batch.rows)
        pooled = jax.device_get(output.pooled) if is_pooled else None
        rows = []
        for row, i, first in _places(batch, in_flight.bucket):
            token_ids, logprobs = _tokens(row, drawn, i, chosen, places.get(row.seq))
            is_finite = all(drawn.is_finite[i : i + max(1, len(token_ids))])
            result = RowResult(
                token_ids,
                logprobs,
                prompt_logprobs=_prompt_logprobs(prompt, first, row) if prompt else (),
                pooled=b"" if pooled is None else _pooled(pooled, i, row),
                is_finite=is_finite or not row.needs_finite,
                error=draw.errors.get(row.seq, ""),
            )
            rows.append(result)
        num_padded_tokens = self._blueprint.sizes.num_ranks * in_flight.bucket.num_tokens
        return StepResult(tuple(rows), num_padded_tokens)


def _places(batch: ScheduledBatch, bucket: Bucket) -> Iterator[tuple[ScheduledRow, int, int]]:
    """Each row, its first draw and its first token, by their places in the output of all ranks."""
    num_rows: Counter[int] = Counter()
    num_tokens: Counter[int] = Counter()
    for row in batch.rows:
        rank = row.seq.rank
        place = num_tokens[rank] if bucket.num_drafts else num_rows[rank]
        first = rank * bucket.num_tokens + num_tokens[rank]
        yield row, rank * bucket.num_draws + place, first
        num_rows[rank] += 1
        num_tokens[rank] += row.num_scheduled_tokens


def _to_host(drawn: list[Drawn], *, wants_logprobs: bool) -> list[_HostDrawn]:
    """Copies, without log probabilities unless a row wants them."""
    wanted = drawn if wants_logprobs else [each._replace(logprobs=None) for each in drawn]
    return [
        _HostDrawn(each.token_S.tolist(), each.is_finite_S.tolist(), each.logprobs)
        for each in jax.device_get(wanted)
    ]


def _tokens(
    row: ScheduledRow,
    drawn: _HostDrawn,
    i: int,
    chosen: list[_HostDrawn],
    place: tuple[int, int] | None,
) -> tuple[tuple[int, ...], tuple[TokenLogprobs, ...] | None]:
    """What a row has drawn, and the log probabilities that its request wants.

    `place` is its tile, and the place there, of a row whose token was chosen after the step. Of a
    row with drafts, what was drawn after a wrong one means nothing.
    """
    if not row.is_sampling:
        return (), None
    if place is not None:
        tile, i = place
        drawn = chosen[tile]
    wanted = row.seq.params.num_logprobs
    found = drawn.logprobs
    token_ids = tuple(drawn.token_ids[i : i + 1 + len(row.draft_ids)])
    token_ids = token_ids[: 1 + num_accepted(row.draft_ids, token_ids)]
    if wanted < 0 or found is None:
        return token_ids, None
    places = range(i, i + len(token_ids))
    return token_ids, tuple(_token_logprobs(found, each, wanted) for each in places)


def _prompt_logprobs(prompt: Logprobs, start: int, row: ScheduledRow) -> list[TokenLogprobs | None]:
    """One entry per position of the chunk that has a next prompt token."""
    wanted = row.seq.params.num_prompt_logprobs
    if wanted < 0:
        return []
    last = min(row.end, row.seq.num_prompt_tokens - 1)
    count = max(0, last - row.num_computed_tokens)
    return [_token_logprobs(prompt, start + i, wanted) for i in range(count)]


def _pooled(pooled: np.ndarray, i: int, row: ScheduledRow) -> bytes:
    return pooled[i].astype("<f4").tobytes() if pooled_positions(row) else b""


def _token_logprobs(logprobs: Logprobs, i: int, wanted: int) -> TokenLogprobs:
    ids = np.asarray(logprobs.top_ids[i, :wanted]).tolist()
    values = np.asarray(logprobs.top[i, :wanted]).tolist()
    return TokenLogprobs(float(logprobs.chosen[i]), list(zip(ids, values, strict=True)))
