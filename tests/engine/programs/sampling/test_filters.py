"""Drawing on meshes of one, two and four shards: what filters keep, and what follows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.device import oracle
from tests.engine.programs.sampling_bench import (
    CLOSE,
    ROWS,
    VOCAB,
    gap,
    make_row,
    random_logits,
    tied_logits,
)

filters = st.fixed_dictionaries(
    {
        "top_k": st.one_of(st.just(0), st.integers(1, 20), st.integers(1, 2**31 - 1)),
        "top_p": st.one_of(st.just(1.0), st.floats(1e-6, 1)),
        "min_p": st.one_of(st.just(0.0), st.floats(0, 1)),
    }
)


class TestFilters:
    @settings(max_examples=15)
    @given(
        rows=st.lists(filters, min_size=8, max_size=8),
        seed=st.integers(0, 2**32 - 1),
        step=st.sampled_from([1e-6, 0.25, 4.0]),
    )
    def test_filters_keep_what_the_oracle_keeps(self, bench, rows, seed, step):
        scaled = tied_logits(seed, step)
        rows = [make_row(slot=i, **params) for i, params in enumerate(rows)]
        for row, logits, kept in zip(rows, scaled, bench.kept(scaled, rows), strict=False):
            params, slack = row.seq.params, oracle.SLACK
            least, most = oracle.kept(logits, params, -slack), oracle.kept(logits, params, slack)
            assert not np.any(least & ~kept)
            assert not np.any(kept & ~most)

    @settings(max_examples=15)
    @given(
        rows=st.lists(filters, min_size=8, max_size=8),
        seed=st.integers(0, 2**32 - 1),
        step=st.sampled_from([1e-6, 0.25, 4.0]),
        scale=st.sampled_from([0.1, 3.0]),
    )
    def test_what_is_drawn_is_the_best_of_what_they_keep(self, bench, rows, seed, step, scale):
        """Also where only a row's best tokens are looked at, or where those are not enough."""
        logits = tied_logits(seed, step, scale=scale)
        rows = [make_row(slot=i, seed=i, **rows[i % len(rows)]) for i in range(ROWS)]
        for row, row_logits, token in zip(rows, logits, bench.draw(logits, rows), strict=True):
            assert gap(token, row_logits, row) < CLOSE

    def test_top_k_keeps_all_that_tie_with_the_last(self, bench):
        scaled = np.full((1, VOCAB), -9, np.float32)
        scaled[0, [7, 130, 300, 490]] = [2, 1, 1, 0]
        for top_k, count in ((1, 1), (2, 3), (3, 3), (4, 4)):
            assert bench.kept(scaled, [make_row(top_k=top_k)]).sum() == count

    def test_zero_ties_with_minus_zero(self, bench):
        scaled = np.full((1, VOCAB), -9, np.float32)
        scaled[0, [7, 130]] = [-0.0, 0.0]
        assert bench.kept(scaled, [make_row(top_k=1)]).sum() == 2
        assert bench.kept(scaled, [make_row(top_p=0.2)]).sum() == 2

    @pytest.mark.parametrize(("top_p", "count"), [(0.4, 1), (0.6, 2), (0.8, 3), (0.95, 4)])
    def test_top_p_keeps_the_fewest_that_reach_it(self, bench, top_p, count):
        scaled = np.full((1, VOCAB), -99, np.float32)
        scaled[0, [300, 7, 130, 490]] = np.log([0.5, 0.25, 0.125, 0.125 * 0.9])
        assert bench.kept(scaled, [make_row(top_p=top_p)]).sum() == count

    def test_top_p_counts_within_what_top_k_left(self, bench):
        scaled = np.log(np.linspace(1, 2, VOCAB))[None].astype(np.float32)
        assert bench.kept(scaled, [make_row(top_k=4, top_p=0.5)]).sum() == 2

    def test_min_p_is_a_part_of_the_best(self, bench):
        scaled = np.full((1, VOCAB), -99, np.float32)
        scaled[0, [300, 7, 130]] = np.log([0.5, 0.26, 0.24])
        assert bench.kept(scaled, [make_row(min_p=0.5)]).nonzero()[1].tolist() == [7, 300]
        assert bench.kept(scaled, [make_row(min_p=1)]).nonzero()[1].tolist() == [300]

    def test_what_has_no_weight_beside_the_best_falls_out_first(self, bench):
        """It is beyond the noise, so it could never be drawn; top_k need not reach for it."""
        scaled = np.full((1, VOCAB), -200, np.float32)
        scaled[0, [3, 400]] = [0, -50]
        assert bench.kept(scaled, [make_row(top_k=5)]).nonzero()[1].tolist() == [3, 400]

    @pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
    def test_the_narrowest_ones_leave_the_best(self, bench, filters):
        logits = random_logits()
        rows = [make_row(slot=i, seed=i, **filters) for i in range(ROWS)]
        assert bench.draw(logits, rows) == logits.argmax(1).tolist()


def position_logits():
    """The same few likely tokens on every shard, for all rows."""
    logits = np.full((ROWS, VOCAB), -20, np.float32)
    logits[:, [3, 100, 130, 250, 260, 370, 390, 499]] = np.log([8, 4, 4, 2, 2, 1, 1, 1])
    return logits


def draw_many(bench, logits, count, **options):
    """`count` tokens of one request: position after position, a bench full at a time."""
    tokens = []
    for first in range(1, count, ROWS):
        rows = [make_row(slot=i, position=first + i, **options) for i in range(ROWS)]
        tokens += bench.draw(logits, rows)
    return np.array(tokens[:count])


def chi_square(tokens, probabilities):
    """Over the tokens expected at least five times, the rest as one."""
    expected = probabilities * len(tokens)
    counts = np.bincount(tokens, minlength=len(expected))
    is_common = expected >= 5
    expected = np.append(expected[is_common], expected[~is_common].sum() + 1e-9)
    counts = np.append(counts[is_common], counts[~is_common].sum())
    return np.sum((counts - expected) ** 2 / expected), len(expected) - 1


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def assert_follows(tokens, probabilities):
    """Chi-square below the value that one sample in ten thousand exceeds (Wilson and Hilferty)."""
    statistic, degrees = chi_square(tokens, probabilities)
    limit = degrees * (1 - 2 / (9 * degrees) + 3.72 * np.sqrt(2 / (9 * degrees))) ** 3
    assert statistic < limit


class TestFrequencies:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
    def test_frequencies_follow_the_softmax(self, benches, temperature):
        logits = position_logits()
        tokens = draw_many(benches[1], logits, 6400, temperature=temperature, seed=11)
        assert_follows(tokens, softmax(logits[0] / temperature))

    def test_frequencies_follow_the_softmax_over_a_whole_flat_vocabulary(self, benches):
        logits = np.repeat(random_logits(rows=1, scale=0.5), ROWS, axis=0)
        tokens = draw_many(benches[1], logits, 12800, seed=12)
        assert_follows(tokens, softmax(logits[0]))

    def test_what_a_filter_keeps_is_drawn_in_proportion(self, benches):
        logits = position_logits()
        tokens = draw_many(benches[1], logits, 6400, top_k=3, seed=13)
        kept = np.where(np.isin(np.arange(VOCAB), [3, 100, 130]), logits[0], -np.inf)
        assert_follows(tokens, softmax(kept))

    @pytest.mark.parametrize("axis", ["position", "choice", "seed"])
    def test_neighbours_are_independent(self, benches, axis):
        """Pairs of draws at neighbouring positions, choices and seeds, as one draw of a pair."""
        logits = np.full((ROWS, VOCAB), -20, np.float32)
        logits[:, [3, 100, 300]] = np.log([2, 1, 1])
        drawn = []
        for first in range(1, 3200, ROWS):
            places = [
                {"position": 1, "seed": 5, "choice": 0} | {axis: first + i} for i in range(ROWS)
            ]
            drawn += benches[1].draw(
                logits, [make_row(slot=i, **place) for i, place in enumerate(places)]
            )
        of_token = np.zeros(VOCAB, int)
        of_token[[100, 300]] = 1, 2
        values = of_token[drawn]
        pairs = 3 * values[::2] + values[1::2]
        assert_follows(pairs, np.outer([0.5, 0.25, 0.25], [0.5, 0.25, 0.25]).reshape(-1))
