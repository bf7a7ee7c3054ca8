"""Attention by kernels over random ragged steps: against attention row by row.

Every slot that must not be read holds NaN (`ragged`), so a kernel that reads one fails.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from models.attention.xla import XlaAttention
from models.cpu_kernels.attention import suits
from tests.models.attention.ragged import (
    MAX_ROWS,
    decode,
    make_spec,
    make_step,
)
from tests.models.attention.test_xla import MIXED, SHORT, attend, check, decodes, mixed, short_rows
from tests.models.cpu_kernels.compiled import need_kernels


@pytest.fixture(autouse=True, scope="module")
def kernels() -> None:
    need_kernels()


def make_kernel_spec(**fields):
    return make_spec(**({"head_dim": 16, "cpu_kernels": True} | fields))


specs = st.sampled_from(
    [
        make_kernel_spec(),
        make_kernel_spec(window=20, group=3, head_dim=80),
        make_kernel_spec(window=140, softcap=2.0, group=5, block_size=64),
    ]
)


@settings(max_examples=30)
@given(spec=specs, rows=mixed(), seed=st.integers(0, 2**32 - 1))
def test_decodes_beside_prefills_attend_to_their_own_history(spec, rows, seed):
    check(spec, rows, seed)


@settings(max_examples=30)
@given(spec=specs, rows=st.lists(decodes, min_size=1, max_size=MAX_ROWS), seed=st.integers(0, 99))
def test_decodes_attend_to_their_own_history(spec, rows, seed):
    check(replace(spec, row_tokens=1), rows, seed)


@settings(max_examples=30)
@given(spec=specs, rows=st.lists(short_rows, min_size=1, max_size=MAX_ROWS), seed=st.integers(0, 9))
def test_rows_of_few_tokens_attend_to_their_own_history(spec, rows, seed):
    check(replace(spec, row_tokens=SHORT), rows, seed)


@pytest.mark.parametrize("group", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("head_dim", [16, 48, 64, 112, 128, 256])
def test_any_group_and_head_will_do(group, head_dim):
    rows = [decode(0), decode(15), decode(16), decode(319)]
    check(make_kernel_spec(group=group, head_dim=head_dim, row_tokens=1), rows, atol=2e-5)


@pytest.mark.parametrize("block_size", [16, 48, 128, 256])
def test_any_whole_block_will_do(block_size):
    check(make_kernel_spec(block_size=block_size, row_tokens=1), [decode(0), decode(257)])


def test_keys_and_values_of_bfloat16_are_summed_in_float32():
    spec = make_kernel_spec(kv_dtype=jnp.dtype("bfloat16"), head_dim=64, row_tokens=1)
    check(spec, [decode(5), decode(200)], atol=2e-5)


def test_sinks_take_part_in_the_softmax():
    spec = make_kernel_spec(row_tokens=1)
    step = make_step(spec, [decode(3), decode(100)])
    sinks = jnp.asarray(np.random.default_rng(0).standard_normal((spec.kv_heads, spec.group)))

    def run(cpu_kernels):
        own = replace(spec, cpu_kernels=cpu_kernels)
        args = own, step.ragged, step.q_KTGH, step.kv_TK2H, step.pool, step.table_SB, sinks
        return jax.jit(XlaAttention().attend, static_argnums=0)(*args)[0]

    assert_allclose(run(True), run(False), atol=1e-5)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    spec = make_kernel_spec(row_tokens=1, head_dim=64)
    step = make_step(spec, [decode(5), decode(64), decode(319)])
    together = attend(spec, step)[0]
    for row in range(3):
        lens = np.where(np.arange(MAX_ROWS) == row, step.ragged.seq_lens_S, 0).astype(np.int32)
        alone = attend(spec, replace(step, ragged=step.ragged._replace(seq_lens_S=lens)))[0]
        assert_array_equal(alone[:, row], together[:, row])


def test_what_is_not_finite_stays_in_its_row():
    spec = make_kernel_spec(row_tokens=1)
    step = make_step(spec, [decode(40), decode(40), decode(40)])
    clean = attend(spec, step)[0]
    block, slot = step.place(1, 7)
    step.pool.k[block, :, slot] = np.nan
    broken = attend(spec, step)[0]
    assert np.isnan(broken[:, 1]).all()
    assert_array_equal(broken[:, [0, 2]], clean[:, [0, 2]])


def test_odd_sizes_one_byte_and_long_rows_are_left_to_xla():
    def fits(positions=1, block_size=16, head_dim=64, dtype="float32"):
        q = jax.ShapeDtypeStruct((2, 2, positions, 3, head_dim), jnp.float32)
        return suits(q, jax.ShapeDtypeStruct((9, 2, block_size, head_dim), dtype))

    assert fits()
    assert fits(positions=8)
    assert not fits(positions=9)
    assert not fits(block_size=24)
    assert not fits(head_dim=72)
    assert not fits(dtype="int8")
    assert not fits(dtype="float8_e4m3fn")


@pytest.mark.parametrize("fields", [{"head_dim": 8}, {"block_size": 5}], ids=str)
def test_what_is_left_to_xla_comes_out_the_same(fields):
    check(make_kernel_spec(**fields), MIXED)
