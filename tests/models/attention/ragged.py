"""Random steps over a paged pool, for any backend: what was written before, and what comes new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.attention.base import AttentionSpec, Ragged
from models.attention.xla import KVBlocks

BLOCK_SIZE = 8
PADDED_TOKENS = 64
TABLE_SIZE = 8

type Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of (cached, new) tokens, decodes first, with the keys and values they all had so far."""

    ragged: Ragged
    table: NDArray[np.int32]
    pool: KVBlocks
    q_KTGH: Floats
    kv_TK2H: Floats
    histories: list[Floats]
    rows: list[tuple[int, int]]


def make_spec(**fields: Any) -> AttentionSpec:
    defaults: dict[str, Any] = {
        "kv_heads": 2,
        "group": 3,
        "head_dim": 16,
        "window": None,
        "scale": 0.25,
        "softcap": None,
        "block_size": BLOCK_SIZE,
        "kv_dtype": np.dtype("float32"),
        "decode_only": False,
    }
    return AttentionSpec(**(defaults | fields))


def make_step(spec: AttentionSpec, rows: list[tuple[int, int]], seed: int) -> Step:
    """A step of these rows; blocks are dealt out of order, and free ones hold junk."""
    rng = np.random.default_rng(seed)
    rows = sorted(rows, key=lambda row: (row[1] > 1 or row[0] == 0, row))
    num_blocks = 1 + len(rows) * TABLE_SIZE
    shape = (num_blocks, spec.kv_heads, BLOCK_SIZE, spec.head_dim)
    pool = KVBlocks(*(rng.standard_normal((2, *shape)).astype(np.float32) * 50))
    table = (1 + rng.permutation(num_blocks - 1).reshape(len(rows), TABLE_SIZE)).astype(np.int32)
    histories = [
        rng.standard_normal((sum(row), spec.kv_heads, 2, spec.head_dim)).astype(np.float32)
        for row in rows
    ]
    for i, (cached, _) in enumerate(rows):
        for position in range(cached):
            block, slot = table[i, position // BLOCK_SIZE], position % BLOCK_SIZE
            pool.k[block, :, slot], pool.v[block, :, slot] = histories[i][position].swapaxes(0, 1)
    new = [history[cached:] for history, (cached, _) in zip(histories, rows, strict=True)]
    total = sum(len(part) for part in new)
    q = rng.standard_normal((spec.kv_heads, PADDED_TOKENS, spec.group, spec.head_dim))
    junk = rng.standard_normal((PADDED_TOKENS - total, *histories[0].shape[1:])).astype(np.float32)
    return Step(
        ragged=_ragged(rows, table),
        table=table,
        pool=pool,
        q_KTGH=q.astype(np.float32),
        kv_TK2H=np.concatenate([*new, junk]),
        histories=histories,
        rows=rows,
    )


def naive_attention(spec: AttentionSpec, step: Step) -> list[Floats]:
    """Row by row over its whole history: [K, new, G, H] each."""
    out, start = [], 0
    for history, (cached, new) in zip(step.histories, step.rows, strict=True):
        q = step.q_KTGH[:, start : start + new].astype(np.float64)
        k, v = history[:, :, 0].astype(np.float64), history[:, :, 1].astype(np.float64)
        scores = np.einsum("ktgh,skh->ktgs", q, k) * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * np.tanh(scores / spec.softcap)
        position = cached + np.arange(new)[:, None]
        seen = np.arange(cached + new) <= position
        if spec.window is not None:
            seen &= np.arange(cached + new) > position - spec.window
        weights = np.exp(scores - scores.max(-1, keepdims=True)) * seen[None, :, None]
        weights /= weights.sum(-1, keepdims=True)
        out.append(np.einsum("ktgs,skh->ktgh", weights, v).astype(np.float32))
        start += new
    return out


def split_rows(out_KTGH: Floats, step: Step) -> list[Floats]:
    ends = np.cumsum([new for _, new in step.rows])
    return np.split(out_KTGH[:, : ends[-1]], ends[:-1], axis=1)


def _ragged(rows: list[tuple[int, int]], table: NDArray[np.int32]) -> Ragged:
    counts = np.array([new for _, new in rows])
    total, start = int(counts.sum()), np.concatenate([[0], np.cumsum(counts)])
    row = np.repeat(np.arange(len(rows)), counts)
    cached = np.array([cached for cached, _ in rows])
    positions = cached[row] + np.arange(total) - start[row]
    pad = (0, PADDED_TOKENS - total)
    return Ragged(
        positions_T=np.pad(positions, pad).astype(np.int32),
        row_T=np.pad(row, pad).astype(np.int32),
        is_padding_T=np.arange(PADDED_TOKENS) >= total,
        block_tables_KSB=table[None],
        seq_lens_S=(cached + counts).astype(np.int32),
        query_start_S1=start.astype(np.int32),
        num_decodes=np.int32(sum(cached > 0 and new == 1 for cached, new in rows)),
        num_rows=np.int32(len(rows)),
    )
