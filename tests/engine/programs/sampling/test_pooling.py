"""Sums of hidden states per row, on one device and on data ranks; no row sees another's numbers."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from models.sharding import DATA, TENSOR
from server.engine.programs.inputs.step_input import NO_TARGET, POOLED
from server.engine.programs.sampling.pooling import pool

NUM_TOKENS, NUM_ROWS, SIZE = 8, 3, 4
X = np.arange(NUM_TOKENS * SIZE, dtype=np.float32).reshape(NUM_TOKENS, SIZE)
# Rows of three, two and one tokens, and two of padding.
ROWS = np.array([0, 0, 0, 1, 1, 2, NUM_ROWS, NUM_ROWS], np.int32)


@pytest.fixture(scope="module")
def pooled():
    """The sums of two ranks' inputs, one rank after another."""
    mesh = Mesh(np.array(jax.devices()[:2]).reshape(2, 1), (DATA, TENSOR))

    def of_rank(x, target):
        return pool(x[0], ROWS, target[0], NUM_ROWS)

    specs = (PartitionSpec(DATA), PartitionSpec(DATA))
    run = jax.shard_map(
        of_rank, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
    )
    compiled = jax.jit(run)
    return lambda *ranks: np.asarray(compiled(*map(np.stack, zip(*ranks, strict=True))))


def targets(*positions):
    marked = np.full(NUM_TOKENS, NO_TARGET, np.int32)
    marked[list(positions)] = POOLED
    return marked


def test_each_row_of_each_rank_has_the_sum_of_its_pooled_tokens(pooled):
    found = pooled((X, targets(0, 1, 2, 4)), (10 * X, targets(5)))
    assert found.dtype == np.float32
    assert np.array_equal(found[:3], [X[:3].sum(0), X[4], np.zeros(SIZE)])
    assert np.array_equal(found[3:], [np.zeros(SIZE), np.zeros(SIZE), 10 * X[5]])


def test_a_rank_without_pooled_tokens_follows_one_that_has_some(pooled):
    found = pooled((X, targets()), (X, targets(2)))
    assert np.array_equal(found, [*np.zeros((3, SIZE)), X[2], *np.zeros((2, SIZE))])


def test_what_is_not_finite_stays_in_its_row(pooled):
    broken = X.copy()
    broken[[1, 7], 0] = np.nan, np.inf
    found = pooled((broken, targets(0, 1, 3, 4, 5)), (X, targets(0)))
    assert np.isnan(found[0]).all()
    assert np.array_equal(found[1:4], [X[3] + X[4], X[5], X[0]])


def test_a_token_that_is_not_pooled_may_hold_anything(pooled):
    broken = X.copy()
    broken[1] = np.nan
    assert np.array_equal(pooled((broken, targets(0, 2)), (X, targets()))[0], X[0] + X[2])
