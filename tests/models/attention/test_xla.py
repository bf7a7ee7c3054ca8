"""The XLA backend over random ragged steps: against attention row by row, and tokamax's reference.

tokamax's kernels run on TPU only; the reference that ships beside them runs anywhere and defines
what they compute.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from models.attention.xla import XlaAttention
from tests.models.attention.ragged import (
    MAX_LEN,
    MAX_ROWS,
    MAX_TOKENS,
    chunk,
    decode,
    make_spec,
    make_step,
    naive_attention,
)

decodes = st.builds(decode, st.integers(0, MAX_LEN - 1))
# The most tokens of a row where all rows are short.
SHORT = 5
short_rows = st.builds(chunk, st.integers(0, MAX_LEN - SHORT), st.integers(1, SHORT))


@st.composite
def mixed(draw):
    """Decodes, then chunks of up to all the tokens there are, from the middle of prompts too."""
    rows = draw(st.lists(decodes, max_size=MAX_ROWS - 1))
    budget = MAX_TOKENS - len(rows)
    for _ in range(draw(st.integers(1, MAX_ROWS - len(rows)))):
        new = draw(st.integers(1, budget))
        rows.append(chunk(draw(st.integers(0, MAX_LEN - new)), new))
        budget -= new
        if not budget:
            break
    return rows


# Few, because each is a program of its own: a window within a chunk of context, one beyond it.
specs = st.sampled_from([make_spec(), make_spec(window=20), make_spec(window=140, softcap=2.0)])
MIXED = [decode(0), decode(130), decode(319), chunk(0, 33), chunk(95, 64), chunk(31, 1)]


@partial(jax.jit, static_argnums=0)
def run(spec, step_arrays):
    ragged, q, kv, pool, table = step_arrays
    backend = XlaAttention()
    return backend.attend(spec, backend.plan(spec, ragged), q, kv, pool, table)


def attend(spec, step):
    arrays = step.ragged, step.q_KTGH, step.kv_TK2H, step.pool, step.table_SB
    return jax.tree.map(np.asarray, run(spec, arrays))


def check(spec, rows, seed=0, atol=1e-5):
    step = make_step(spec, rows, seed)
    out, _ = attend(spec, step)
    assert_allclose(out, naive_attention(spec, step), atol=atol)


@settings(max_examples=30)
@given(spec=specs, rows=mixed(), seed=st.integers(0, 2**32 - 1))
def test_every_row_attends_to_its_own_history(spec, rows, seed):
    check(spec, rows, seed)


@settings(max_examples=20)
@given(
    spec=specs,
    rows=st.lists(decodes, min_size=1, max_size=MAX_ROWS),
    seed=st.integers(0, 2**32 - 1),
)
def test_decodes_alone_take_the_short_way_to_the_same(spec, rows, seed):
    check(replace(spec, row_tokens=1), rows, seed)


@settings(max_examples=20)
@given(
    spec=specs,
    rows=st.lists(short_rows, min_size=1, max_size=MAX_ROWS),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_few_tokens_go_together_to_the_same(spec, rows, seed):
    check(replace(spec, row_tokens=SHORT), rows, seed)


@settings(max_examples=10)
@given(spec=specs, rows=mixed(), seed=st.integers(0, 2**32 - 1))
def test_xla_attention_is_the_reference_of_the_tpu_kernels(spec, rows, seed):
    tokamax = pytest.importorskip("tokamax", reason="tokamax comes with the extra tpu")
    # The reference multiplies what it does not see by zero.
    step = make_step(spec, rows, seed, fill=50.0)
    out, pool = attend(spec, step)
    k, t, g, h = step.q_KTGH.shape
    num_rows = len(rows)
    expected, cache = tokamax.ops.ragged_paged_attention(
        jnp.asarray(step.q_KTGH.swapaxes(0, 1).reshape(t, k * g, h)),
        jnp.asarray(step.kv_TK2H[:, :, 0]),
        jnp.asarray(step.kv_TK2H[:, :, 1]),
        interleaved(step.pool),
        jnp.asarray(step.ragged.seq_lens_S[:num_rows]),
        jnp.asarray(step.table_SB[:num_rows].reshape(-1)),
        jnp.asarray(step.ragged.query_start_S1[: num_rows + 1]),
        jnp.array([0, 0, num_rows], jnp.int32),
        sm_scale=spec.scale,
        sliding_window=spec.window,
        soft_cap=spec.softcap,
        implementation="reference",
    )[:2]
    expected = np.asarray(expected).reshape(t, k, g, h).swapaxes(0, 1)
    total = step.num_tokens
    assert_allclose(out[:, :total], expected[:, :total], atol=2e-5)
    # Block 0 takes our padding; theirs goes nowhere.
    assert_allclose(interleaved(pool)[1:], cache[1:])


def interleaved(pool):
    """The reference's cache: [blocks, slots, K0 V0 K1 V1 ..., lanes]."""
    both = np.stack([pool.k, pool.v], axis=2)
    blocks, kv_heads, _, slots, head_dim = both.shape
    flat = both.transpose(0, 3, 1, 2, 4).reshape(blocks, slots, 2 * kv_heads, head_dim)
    return jnp.pad(jnp.asarray(flat), ((0, 0), (0, 0), (0, 0), (0, 128 - head_dim)))


@pytest.mark.parametrize(
    "fields",
    [{"group": 1, "block_size": 5}, {"group": 3, "softcap": 2.0, "block_size": 256}],
    ids=str,
)
def test_any_shape_will_do(fields):
    check(make_spec(**fields), MIXED)


@pytest.mark.parametrize("new", [1, 31, 32, 33, 127, 128])
def test_a_chunk_ends_within_or_at_a_tile(new):
    check(make_spec(), [chunk(64, new)])


@pytest.mark.parametrize("length", [127, 128, 129, 256, 257])
def test_a_context_ends_within_or_at_a_round_of_the_softmax(length):
    check(make_spec(), [decode(length - 1), chunk(length - 5, 5)])


def test_as_many_prompts_as_rows_fill_a_step():
    check(make_spec(), [chunk(0, 20)] * 4 + [chunk(0, 24)] * 2)


def test_a_bfloat16_pool_costs_its_rounding_only():
    check(make_spec(kv_dtype=jnp.dtype(jnp.bfloat16)), MIXED, atol=2e-2)


@settings(max_examples=15)
@given(rows=mixed())
def test_only_own_slots_and_block_0_are_written(rows):
    spec = make_spec()
    step = make_step(spec, rows)
    _, pool = attend(spec, step)
    for i, (before, after) in enumerate(zip(step.pool, pool, strict=True)):
        expected = before.copy()
        for row, (own, history) in enumerate(zip(rows, step.histories, strict=True)):
            new = np.arange(own.cached, own.cached + own.new)
            block, slot = step.place(row, new)
            expected[block, :, slot] = history[new, :, i]
        assert_array_equal(after[1:], expected[1:])


def test_a_full_step_does_not_write_block_0():
    spec = make_spec()
    _, pool = attend(spec, make_step(spec, [chunk(0, MAX_TOKENS)]))
    assert all(np.isnan(blocks[0]).all() for blocks in pool)
