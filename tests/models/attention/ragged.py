"""Random steps over a paged pool, for any backend: what was written before, and what comes new.

Every slot that a step must not read holds NaN: free blocks, blocks outside of the window, the
padding block, the end of a row's last block. Sizes of arrays do not depend on the rows, so that one
program serves them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.attention.base import AttentionSpec, Ragged
from models.attention.xla import KVBlocks

MAX_ROWS = 6
MAX_TOKENS = 128
MAX_LEN = 320

type Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence with `cached` tokens in the pool that runs `new` more in this step."""

    cached: int
    new: int
    is_decode: bool


@dataclass(frozen=True, slots=True)
class Step:
    """Rows, decodes first, with the keys and values [tokens, K, 2, H] that each had so far."""

    rows: list[Row]
    histories: list[Floats]
    ragged: Ragged
    table_SB: NDArray[np.int32]
    pool: KVBlocks
    q_KTGH: Floats
    kv_TK2H: Floats

    @property
    def num_tokens(self) -> int:
        return sum(row.new for row in self.rows)

    def place(self, row: int, position: Any) -> tuple[Any, Any]:
        """Block and slot of a row's position, or of several."""
        block_size = self.pool.k.shape[2]
        return self.table_SB[row, position // block_size], position % block_size


def decode(cached: int) -> Row:
    return Row(cached, 1, is_decode=True)


def chunk(cached: int, new: int) -> Row:
    return Row(cached, new, is_decode=False)


def make_spec(**fields: Any) -> AttentionSpec:
    defaults: dict[str, Any] = {
        "kv_heads": 2,
        "group": 2,
        "head_dim": 8,
        "window": None,
        "scale": 0.3,
        "softcap": None,
        "block_size": 16,
        "kv_dtype": np.dtype("float32"),
        "row_tokens": None,
    }
    return AttentionSpec(**(defaults | fields))


def make_step(spec: AttentionSpec, rows: list[Row], seed: int = 0, fill: float = np.nan) -> Step:
    """A step of these rows; blocks are dealt out of order, none is shared, others hold `fill`."""
    rng = np.random.default_rng(seed)
    num_tokens = MAX_ROWS if spec.decode_only else MAX_TOKENS
    histories = [_draw(rng, spec, row.cached + row.new).astype(spec.kv_dtype) for row in rows]
    new = [history[row.cached :] for history, row in zip(histories, rows, strict=True)]
    padding = _draw(rng, spec, num_tokens - sum(map(len, new)))
    table_size = -(-MAX_LEN // spec.block_size)
    shape = (1 + MAX_ROWS * table_size, spec.kv_heads, spec.block_size, spec.head_dim)
    queries = rng.standard_normal((spec.kv_heads, num_tokens, spec.group, spec.head_dim))
    table_SB = _table(rng, rows, spec, table_size)
    step = Step(
        rows=rows,
        histories=histories,
        ragged=_ragged(rows, table_SB, num_tokens),
        table_SB=table_SB,
        pool=KVBlocks(*(np.full(shape, fill, spec.kv_dtype) for _ in range(2))),
        q_KTGH=queries.astype(np.float32),
        kv_TK2H=np.concatenate([*new, padding]).astype(spec.kv_dtype),
    )
    for i, (row, history) in enumerate(zip(rows, histories, strict=True)):
        held = np.arange(_first_held(spec, row) * spec.block_size, row.cached)
        block, slot = step.place(i, held)
        step.pool.k[block, :, slot] = history[held, :, 0]
        step.pool.v[block, :, slot] = history[held, :, 1]
    return step


def naive_attention(spec: AttentionSpec, step: Step, image_starts: tuple[int, ...] = ()) -> Floats:
    """Row by row over its whole history: [K, T, G, H], zero for padding.

    The images begin at these places of the step; their tokens see all of their own.
    """
    return naive_softmax(spec, step, image_starts)[0]


def naive_softmax(
    spec: AttentionSpec, step: Step, image_starts: tuple[int, ...] = ()
) -> tuple[Floats, Floats]:
    """The same, and the logarithm of each softmax's sum: [K, T, G]."""
    out, start = np.zeros(step.q_KTGH.shape, np.float32), 0
    lse = np.zeros(step.q_KTGH.shape[:3], np.float32)
    for history, row in zip(step.histories, step.rows, strict=True):
        own, length = slice(start, start + row.new), row.cached + row.new
        q = step.q_KTGH[:, own].astype(np.float64)
        k, v = history[:, :, 0].astype(np.float64), history[:, :, 1].astype(np.float64)
        scores = np.einsum("ktgh,skh->ktgs", q, k) * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * np.tanh(scores / spec.softcap)
        position = row.cached + np.arange(row.new)[:, None]
        seen = np.arange(length) <= position
        for image in (each - start + row.cached for each in image_starts if each >= start):
            seen |= _is_of(image, position, spec) & _is_of(image, np.arange(length), spec)
        if spec.window is not None:
            seen &= np.arange(length) > position - spec.window
        weights = np.exp(scores - scores.max(-1, keepdims=True)) * seen[None, :, None]
        lse[:, own] = np.log(weights.sum(-1)) + scores.max(-1)
        weights /= weights.sum(-1, keepdims=True)
        out[:, own] = np.einsum("ktgs,skh->ktgh", weights, v)
        start += row.new
    return out, lse


def _is_of(image: int, position: NDArray[Any], spec: AttentionSpec) -> NDArray[Any]:
    return (position >= image) & (position < image + spec.image_tokens)


def _draw(rng: np.random.Generator, spec: AttentionSpec, count: int) -> Floats:
    return rng.standard_normal((count, spec.kv_heads, 2, spec.head_dim)).astype(np.float32)


def _first_held(spec: AttentionSpec, row: Row) -> int:
    """The first block that the row has not given back."""
    return 0 if spec.window is None else max(0, row.cached - spec.window + 1) // spec.block_size


def _table(
    rng: np.random.Generator, rows: list[Row], spec: AttentionSpec, table_size: int
) -> NDArray[np.int32]:
    """Entries of blocks that are not there yet, or have been given back, are 0."""
    blocks = 1 + rng.permutation(MAX_ROWS * table_size).reshape(MAX_ROWS, table_size)
    table_SB = np.zeros((MAX_ROWS, table_size), np.int32)
    for i, row in enumerate(rows):
        held = slice(_first_held(spec, row), -(-(row.cached + row.new) // spec.block_size))
        table_SB[i, held] = blocks[i, held]
    return table_SB


def _ragged(rows: list[Row], table_SB: NDArray[np.int32], num_tokens: int) -> Ragged:
    counts = np.array([row.new for row in rows] + [0] * (MAX_ROWS - len(rows)))
    cached = np.array([row.cached for row in rows] + [0] * (MAX_ROWS - len(rows)))
    total, start = int(counts.sum()), np.concatenate([[0], np.cumsum(counts)])
    row = np.repeat(np.arange(MAX_ROWS), counts)
    positions = cached[row] + np.arange(total) - start[row]
    pad = (0, num_tokens - total)
    return Ragged(
        positions_T=np.pad(positions, pad).astype(np.int32),
        row_T=np.pad(row, pad, constant_values=MAX_ROWS - 1).astype(np.int32),
        is_padding_T=np.arange(num_tokens) >= total,
        block_tables_KSB=table_SB[None],
        seq_lens_S=(cached + counts).astype(np.int32),
        query_start_S1=start.astype(np.int32),
        num_decodes=np.int32(sum(row.is_decode for row in rows)),
        num_rows=np.int32(len(rows)),
    )
