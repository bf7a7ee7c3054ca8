"""The XLA backend over random ragged steps: against attention row by row, and tokamax's reference.

tokamax's kernels run on TPU only; the reference that ships beside them runs anywhere and defines
what they compute.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from models.attention.xla import XlaAttention
from tests.models.attention.ragged import (
    BLOCK_SIZE,
    PADDED_TOKENS,
    TABLE_SIZE,
    make_spec,
    make_step,
    naive_attention,
    split_rows,
)

rows = st.lists(
    st.one_of(
        st.tuples(st.integers(1, BLOCK_SIZE * TABLE_SIZE - 1), st.just(1)),
        st.tuples(st.integers(0, 30), st.integers(1, 15)),
    ),
    min_size=1,
    max_size=4,
)
specs = st.builds(
    make_spec,
    group=st.sampled_from([1, 3]),
    window=st.sampled_from([None, 1, 5, 8, 20]),
    softcap=st.sampled_from([None, 2.0]),
)


def attend(spec, step):
    backend = XlaAttention()

    def run(q, kv, pool, table, ragged):
        return backend.attend(spec, backend.plan(spec, ragged), q, kv, pool, table)

    return jax.jit(run)(step.q_KTGH, step.kv_TK2H, step.pool, step.table, step.ragged)


@settings(max_examples=15)
@given(spec=specs, rows=rows, seed=st.integers(0, 2**32 - 1))
def test_every_row_attends_to_its_own_history(spec, rows, seed):
    step = make_step(spec, rows, seed)
    out, _ = attend(spec, step)
    for ours, expected in zip(
        split_rows(np.asarray(out), step), naive_attention(spec, step), strict=True
    ):
        assert_allclose(ours, expected, atol=2e-5)


@settings(max_examples=15)
@given(spec=specs, rows=rows, seed=st.integers(0, 2**32 - 1))
def test_it_is_the_reference_of_the_tpu_kernels(spec, rows, seed):
    tokamax = pytest.importorskip("tokamax", reason="tokamax comes with the extra tpu")
    step = make_step(spec, rows, seed)
    out, pool = attend(spec, step)
    k, t, g, h = step.q_KTGH.shape
    expected, cache = tokamax.ops.ragged_paged_attention(
        jnp.asarray(step.q_KTGH.swapaxes(0, 1).reshape(t, k * g, h)),
        jnp.asarray(step.kv_TK2H[:, :, 0]),
        jnp.asarray(step.kv_TK2H[:, :, 1]),
        interleaved(step.pool),
        jnp.asarray(step.ragged.seq_lens_S),
        jnp.asarray(step.table.reshape(-1)),
        jnp.asarray(step.ragged.query_start_S1),
        jnp.array([0, 0, len(step.rows)], jnp.int32),
        sm_scale=spec.scale,
        sliding_window=spec.window,
        soft_cap=spec.softcap,
        implementation="reference",
    )[:2]
    expected = np.asarray(expected).reshape(t, k, g, h).swapaxes(0, 1)
    total = step.ragged.query_start_S1[-1]
    assert_allclose(np.asarray(out)[:, :total], expected[:, :total], atol=2e-5)
    # Block 0 takes our padding; theirs goes nowhere.
    assert_allclose(interleaved(pool)[1:], cache[1:])


def interleaved(pool):
    """The reference's cache: [blocks, slots, K0 V0 K1 V1 ..., lanes]."""
    both = np.stack([np.asarray(pool.k), np.asarray(pool.v)], axis=2)
    blocks, kv_heads, _, slots, head_dim = both.shape
    flat = both.transpose(0, 3, 1, 2, 4).reshape(blocks, slots, 2 * kv_heads, head_dim)
    return jnp.pad(jnp.asarray(flat), ((0, 0), (0, 0), (0, 0), (0, 128 - head_dim)))


def test_only_own_slots_and_block_0_are_written():
    spec = make_spec()
    step = make_step(spec, [(9, 1), (0, 5), (3, 10)], seed=1)
    before = np.array(step.pool.k)
    _, pool = attend(spec, step)
    written = {
        (int(step.table[i, position // BLOCK_SIZE]), position % BLOCK_SIZE)
        for i, (cached, new) in enumerate(step.rows)
        for position in range(cached, cached + new)
    }
    changed = np.any(np.asarray(pool.k) != before, axis=(1, 3))
    assert {(b, s) for b, s in zip(*map(list, np.nonzero(changed)), strict=True) if b} == written


def test_nan_that_a_failed_sequence_left_behind_does_not_leak():
    spec = make_spec()
    step = make_step(spec, [(9, 1), (0, 5)], seed=2)
    expected = naive_attention(spec, step)
    for leaf in step.pool:
        for i, (cached, new) in enumerate(step.rows):
            for position in range(cached + new, TABLE_SIZE * BLOCK_SIZE):
                leaf[step.table[i, position // BLOCK_SIZE], :, position % BLOCK_SIZE] = np.nan
    out, _ = attend(spec, step)
    for ours, wanted in zip(split_rows(np.asarray(out), step), expected, strict=True):
        assert_allclose(ours, wanted, atol=2e-5)


def test_a_decode_bucket_gives_what_a_mixed_one_gives():
    rows = [(9, 1), (20, 1), (63, 1)]
    mixed = make_spec()
    step = make_step(mixed, rows, seed=3)
    expected, _ = attend(mixed, step)
    narrow = step.__class__(
        ragged=step.ragged._replace(
            positions_T=step.ragged.positions_T[:3],
            row_T=step.ragged.row_T[:3],
            is_padding_T=step.ragged.is_padding_T[:3],
        ),
        table=step.table,
        pool=step.pool,
        q_KTGH=step.q_KTGH[:, :3],
        kv_TK2H=step.kv_TK2H[:3],
        histories=step.histories,
        rows=step.rows,
    )
    out, _ = attend(make_spec(decode_only=True), narrow)
    assert_allclose(np.asarray(out), np.asarray(expected)[:, :3], atol=1e-6)


def test_padding_is_zero():
    step = make_step(make_spec(), [(9, 1), (0, 5)], seed=4)
    out, _ = attend(make_spec(), step)
    assert_array_equal(np.asarray(out)[:, 6:PADDED_TOKENS], 0)
