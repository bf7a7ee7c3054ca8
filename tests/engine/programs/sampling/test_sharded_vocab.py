"""Questions about a row that is split over one, two and four shards."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

from models.sharding import TENSOR
from server.engine.programs.sampling.sharded_vocab import (
    first_id,
    local_columns,
    row_argmax,
    row_max,
    row_sum,
    row_top,
)
from tests.engine.programs.sampling_bench import make_mesh

COLUMNS = 32


@pytest.fixture(scope="module", params=[1, 2, 4], ids=lambda shards: f"{shards} shards")
def ask(request):
    """Run a function of a split row, once on every shard; the answers must be the same."""
    mesh = make_mesh(request.param)
    by_vocab, everywhere = PartitionSpec(None, TENSOR), PartitionSpec()

    @cache
    def compiled(function, out_specs):
        return jax.jit(
            jax.shard_map(
                function, mesh=mesh, in_specs=by_vocab, out_specs=out_specs, check_vma=False
            )
        )

    def run(function, rows, out_specs=everywhere):
        return jax.tree.map(np.asarray, compiled(function, out_specs)(rows))

    return run


def random_rows(seed=0):
    """Halves, so that many entries tie, minus infinity among them."""
    rows = np.round(np.random.default_rng(seed).standard_normal((8, COLUMNS)) * 4) / 2
    rows[rows < -3] = -np.inf
    return rows.astype(np.float32)


def test_the_largest_entry_and_the_sum_are_of_the_whole_row(ask):
    rows = random_rows()
    assert_array_equal(ask(row_max, rows), rows.max(1))
    finite = np.where(np.isfinite(rows), rows, 0)
    assert_allclose(ask(row_sum, finite), finite.sum(1))


def best_five(rows):
    return row_top(rows, 5)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_of_equal_entries_the_smallest_id_comes_first(ask, seed):
    rows = random_rows(seed)
    assert_array_equal(ask(row_argmax, rows), rows.argmax(1))
    top, ids = ask(best_five, rows)
    order = np.argsort(-rows, axis=1, kind="stable")[:, :5]
    assert_array_equal(ids, order)
    assert_array_equal(top, np.take_along_axis(rows, order, axis=1))


def test_more_than_a_shard_holds_are_gathered_from_all(ask):
    rows = random_rows()
    top, _ = ask(lambda x: row_top(x, 20), rows)
    assert_array_equal(top, -np.sort(-rows, axis=1)[:, :20])


def test_no_more_come_than_there_are(ask):
    assert ask(lambda x: row_top(x, 64), random_rows())[1].shape == (8, COLUMNS)


def test_every_id_has_one_column_on_one_shard(ask):
    """Ids of other shards, and -1, fall out of range, where a scatter drops them."""
    ids = np.array([-1, *range(COLUMNS)], np.int32)

    def counts(rows):
        columns = local_columns(ids, rows.shape[1])
        return rows[:1].at[0, columns].add(1.0, mode="drop")

    counted = ask(counts, np.zeros((1, COLUMNS), np.float32), PartitionSpec(None, TENSOR))
    assert_array_equal(counted, 1)


def test_the_first_id_is_that_of_the_shards_first_column(ask):
    def own_ids(rows):
        return rows + first_id(rows.shape[1]) + np.arange(rows.shape[1])

    found = ask(own_ids, np.zeros((1, COLUMNS), np.float32), PartitionSpec(None, TENSOR))
    assert_array_equal(found[0], np.arange(COLUMNS))
