"""The whole sampler on meshes of one, two and four shards, through packing, against `oracle`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from server.engine.policy.sequences.step import ScheduledRow
from server.link.sampling import MAX_LOGPROBS
from tests.engine.fakes import EOS
from tests.engine.programs.sampling_bench import (
    CLOSE,
    ROWS,
    VOCAB,
    gap,
    make_row,
    make_rows,
    random_logits,
    tied_logits,
)


class TestGreedy:
    def test_a_greedy_token_is_the_argmax_of_all_logits(self, bench):
        logits = random_logits()
        assert bench.tokens(logits, make_rows(temperature=0)) == logits.argmax(1).tolist()

    def test_of_equal_ones_it_is_the_smallest_id(self, bench):
        logits = np.minimum(tied_logits(1, step=4.0), 4)
        assert min(np.sum(logits == logits.max(1, keepdims=True), axis=1)) > 1
        assert bench.tokens(logits, make_rows(temperature=0)) == logits.argmax(1).tolist()

    @pytest.mark.parametrize("token", [0, 127, 128, 255, 256, 384, VOCAB - 1])
    def test_every_shard_can_win(self, bench, token):
        logits = random_logits(rows=1)
        logits[0, token] = 99
        assert bench.tokens(logits, [make_row(temperature=0)]) == [token]

    def test_filters_and_seeds_do_not_matter(self, bench):
        logits = random_logits()
        rows = [make_row(temperature=0, top_k=1 + i, top_p=0.1, min_p=0.5, seed=i) for i in (3, 4)]
        assert bench.tokens(logits, rows) == logits[:2].argmax(1).tolist()

    def test_a_greedy_row_stays_greedy_next_to_rows_that_draw(self, bench):
        logits = random_logits(scale=0.1)
        rows = [make_row(slot=i, temperature=i % 2) for i in range(ROWS)]
        assert bench.tokens(logits, rows)[::2] == logits.argmax(1)[::2].tolist()


options = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.01, 0.7, 1.0, 2.0]),
        "top_k": st.sampled_from([0, 0, 1, 40]),
        "top_p": st.sampled_from([1.0, 1.0, 0.3, 0.95]),
        "min_p": st.sampled_from([0.0, 0.0, 0.1]),
        "presence_penalty": st.sampled_from([0.0, 0.0, 1.5, -2.0]),
        "frequency_penalty": st.sampled_from([0.0, 0.0, 0.75, -1.0]),
        "repetition_penalty": st.sampled_from([1.0, 1.0, 1.3, 0.5]),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), max_size=4),
        "min_tokens": st.integers(0, 3),
        "stop_token_ids": st.sampled_from([(), (0, VOCAB - 1)]),
        "ignore_eos": st.booleans(),
        "seed": st.integers(0, 2**64 - 1),
        "choice": st.integers(0, 127),
        "prompt": st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8),
        "output": st.lists(st.integers(0, VOCAB - 1), max_size=4),
    }
)


class TestOptions:
    @settings(max_examples=15)
    @given(rows=st.lists(options, min_size=8, max_size=8), seed=st.integers(0, 2**32 - 1))
    def test_every_mix_of_them_draws_what_the_oracle_draws(self, bench, rows, seed):
        logits = random_logits(seed)
        # Penalties are seen only where they decide: at the best tokens.
        rows = [make_row(slot=i, **row) for i, row in enumerate(rows)]
        for row, row_logits in zip(rows, logits, strict=False):
            row_logits[row.seq.token_ids] += 8
        bench.admit(rows)
        for row, row_logits, token in zip(rows, logits, bench.tokens(logits, rows), strict=False):
            assert gap(token, row_logits, row) < CLOSE / max(row.seq.params.temperature, 1e-2)

    def logits_with(self, **values):
        logits = np.zeros((1, VOCAB), np.float32)
        for name, value in values.items():
            logits[0, int(name.removeprefix("id"))] = value
        return logits

    def drawn(self, bench, logits, **row):
        row = make_row(temperature=0, **row)
        bench.admit([row])
        return bench.tokens(logits, [row])[0]

    def test_presence_is_taken_once_from_what_was_generated(self, bench):
        logits = self.logits_with(id7=3.0, id300=2.5, id301=2.4)
        taken = {"presence_penalty": 0.55}
        assert self.drawn(bench, logits, output=[7, 7, 7], **taken) == 300
        assert self.drawn(bench, logits, output=[7, 300], **taken) == 7
        assert self.drawn(bench, logits, prompt=[7], **taken) == 7

    def test_frequency_is_taken_for_every_time(self, bench):
        logits = self.logits_with(id7=3.0, id300=2.5)
        taken = {"frequency_penalty": 0.3}
        assert self.drawn(bench, logits, output=[7], **taken) == 7
        assert self.drawn(bench, logits, output=[7, 7], **taken) == 300
        assert self.drawn(bench, logits, prompt=[7, 7], **taken) == 7

    def test_repetition_divides_what_is_above_zero_and_multiplies_what_is_below(self, bench):
        taken = {"repetition_penalty": 2.0}
        above = self.logits_with(id7=3.0, id300=2.0)
        assert self.drawn(bench, above, prompt=[7], **taken) == 300
        assert self.drawn(bench, above, output=[7], **taken) == 300
        below = self.logits_with(id7=-2.0, id300=-3.0) - 10 * (self.logits_with() == 0)
        below[0, [7, 300]] = -2.0, -3.0
        assert self.drawn(bench, below, prompt=[7], **taken) == 300

    def test_a_bias_moves_its_token_alone(self, bench):
        logits = self.logits_with(id7=3.0)
        assert self.drawn(bench, logits, logit_bias={300: 3.5}) == 300
        assert self.drawn(bench, logits, logit_bias={300: 2.5, 499: 3.25, 7: 0.5}) == 7
        assert self.drawn(bench, logits, logit_bias={7: -100.0, 0: -1.0}) == 1

    def test_stop_ids_cannot_be_drawn_before_the_minimum_length(self, bench):
        logits = self.logits_with(id300=5.0, id7=4.0)
        logits[0, EOS] = 6.0
        row = {"stop_token_ids": (300,), "min_tokens": 2}
        assert self.drawn(bench, logits, output=[1], **row) == 7
        assert self.drawn(bench, logits, output=[1, 1], **row) == EOS
        assert self.drawn(bench, logits, output=[1], ignore_eos=True, **row) == EOS

    def test_drawn_tokens_count_from_then_on(self, bench):
        logits = self.logits_with(id7=3.0, id300=2.5, id301=2.25)
        row = make_row(temperature=0, slot=9, presence_penalty=1.0)
        bench.admit([row])
        assert [bench.tokens(logits, [row])[0] for _ in range(3)] == [7, 300, 301]

    def test_a_row_that_does_not_sample_counts_nothing(self, bench):
        logits = self.logits_with(id7=3.0, id300=2.5)
        row = make_row(temperature=0, slot=9, presence_penalty=1.0)
        bench.admit([row])
        chunk = ScheduledRow(row.seq, 0, 1, is_sampling=False, is_admitted=False)
        bench.sample(logits, [chunk])
        assert bench.tokens(logits, [row]) == [7]

    def test_a_slots_next_owner_inherits_nothing(self, bench):
        logits = self.logits_with(id7=3.0, id300=2.5)
        heavy = {"presence_penalty": 1.0, "logit_bias": {7: -9.0}, "min_tokens": 9}
        first = make_row(slot=9, temperature=0, stop_token_ids=(7,), output=[7], **heavy)
        bench.admit([first])
        assert bench.tokens(logits, [first]) == [300]
        second = make_row(slot=9, temperature=0, presence_penalty=1.0, min_tokens=9)
        bench.set_slot(second)
        assert bench.tokens(logits, [second]) == [7]

    def test_the_last_token_waits_in_its_slot(self, bench):
        rows = [make_row(slot=i, temperature=0) for i in (5, 2)]
        tokens = bench.tokens(random_logits(), rows)
        assert np.asarray(bench.state.last_tokens_N)[[5, 2]].tolist() == tokens


def log_softmax(logits):
    logits = logits.astype(np.float64)
    maximum = logits.max(1, keepdims=True)
    return logits - maximum - np.log(np.exp(logits - maximum).sum(1, keepdims=True))


def constrained(count=ROWS, **params):
    """Rows of sequences with a grammar; what it allows is said to `Bench.draw_allowed`."""
    rows = make_rows(count, **params)
    for row in rows:
        row.seq.matcher = object()
    return rows


class TestAllowedTokens:
    def test_a_draw_takes_the_best_of_what_is_allowed_on_any_shard(self, bench):
        logits, rng = random_logits(), np.random.default_rng(3)
        allowed = [rng.choice(VOCAB, 1 + 7 * i % 60, replace=False) for i in range(ROWS)]
        tokens = bench.draw_allowed(logits, constrained(temperature=0), allowed).token_S
        best = [ids[logits[i, ids].argmax()] for i, ids in enumerate(allowed)]
        assert tokens.tolist() == best

    def test_no_option_brings_a_forbidden_token_back(self, bench):
        rows = constrained(
            3, temperature=2.0, top_k=3, logit_bias={9: 100.0}, frequency_penalty=-2.0, output=(9,)
        )
        bench.admit(rows)
        allowed = [(2, 70), (499,), (130, 131, 400)]
        tokens = bench.draw_allowed(random_logits(), rows, allowed).token_S
        assert all(token in ids for token, ids in zip(tokens.tolist(), allowed, strict=True))

    def test_penalties_and_biases_count_among_what_is_allowed(self, bench):
        logits = random_logits(rows=1, scale=0.1)
        rows = constrained(1, temperature=0, logit_bias={70: 5.0})
        bench.admit(rows)
        assert bench.draw_allowed(logits, rows, [(2, 70, 300)]).token_S.tolist() == [70]

    def test_log_probabilities_are_those_of_all_tokens(self, bench):
        logits = random_logits(rows=2)
        rows = constrained(2, temperature=0, num_logprobs=3)
        drawn = bench.draw_allowed(logits, rows, [(5,), (6,)])
        expected = bench.logprobs(logits, np.pad(np.asarray([5, 6], np.int32), (0, ROWS - 2)))
        assert_allclose(drawn.logprobs.chosen, expected.chosen[:2], rtol=1e-5)

    def test_the_step_before_leaves_a_constrained_rows_state_to_its_draw(self, bench):
        logits = random_logits()
        rows = [*constrained(1, temperature=0), *make_rows(2, temperature=0)[1:]]
        bench.admit(rows)
        before = np.asarray(bench.state.last_tokens_N)[:2].tolist()
        bench.sample(logits, rows)
        after = np.asarray(bench.state.last_tokens_N)[:2].tolist()
        assert (after[0], after[1]) == (before[0], logits[1].argmax())
        bench.draw_allowed(logits, rows[:1], [(7,)])
        assert np.asarray(bench.state.last_tokens_N)[:2].tolist() == [7, after[1]]


class TestLogprobs:
    def test_logprobs_are_the_log_softmax_of_the_raw_logits(self, bench):
        logits = random_logits()
        tokens = np.random.default_rng(3).integers(0, VOCAB, ROWS).astype(np.int32)
        found, expected = bench.logprobs(logits, tokens), log_softmax(logits)
        assert_allclose(found.chosen, expected[np.arange(ROWS), tokens], atol=1e-5)
        order = np.argsort(-logits, axis=1, kind="stable")[:, :MAX_LOGPROBS]
        assert_array_equal(found.top_ids, order)
        assert_allclose(found.top, np.take_along_axis(expected, order, axis=1), atol=1e-5)

    def test_of_equal_alternatives_the_smallest_ids_come_first(self, bench):
        logits = tied_logits(2, step=2.0)
        order = np.argsort(-logits, axis=1, kind="stable")[:, :MAX_LOGPROBS]
        assert_array_equal(bench.logprobs(logits, np.zeros(ROWS, np.int32)).top_ids, order)

    def test_large_logits_do_not_overflow(self, bench):
        logits = random_logits() + 1e4
        found = bench.logprobs(logits, np.zeros(ROWS, np.int32))
        assert_allclose(found.chosen, log_softmax(logits)[:, 0], atol=5e-3)

    def test_no_option_changes_them(self, bench):
        """What a client asks for is the model's opinion, whatever was drawn and how."""
        logits = random_logits()
        heavy = {"temperature": 0.3, "top_k": 5, "presence_penalty": 2.0, "logit_bias": {9: 50.0}}
        rows = [make_row(slot=i, seed=i, num_logprobs=2, output=[1], **heavy) for i in range(8)]
        bench.admit(rows)
        drawn = bench.sample(logits, rows)
        assert 9 in drawn.token_S
        expected = log_softmax(logits)[np.arange(8), drawn.token_S]
        assert_allclose(drawn.logprobs.chosen, expected, atol=1e-5)

    def test_one_row_that_asks_is_enough(self, bench):
        logits = random_logits()
        rows = [make_row(slot=0), make_row(slot=1, temperature=0, num_logprobs=0)]
        drawn = bench.sample(logits, rows)
        assert_allclose(drawn.logprobs.chosen[1], log_softmax(logits)[1].max(), atol=1e-5)


class TestBrokenLogits:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("token", [0, 200, 300, 499])
    def test_nan_and_infinity_are_seen_on_any_shard(self, bench, value, token):
        logits = random_logits()
        logits[1, token] = value
        drawn = bench.sample(logits, make_rows())
        assert drawn.is_finite_S.tolist() == [True, False] + [True] * (ROWS - 2)

    def test_nothing_finite_at_all_is_broken_too(self, bench):
        logits = random_logits()
        logits[2] = -np.inf
        assert bench.sample(logits, make_rows(4)).is_finite_S.tolist() == [True, True, False, True]

    def test_minus_infinity_is_no_fault(self, bench):
        logits = random_logits()
        logits[0, 100:] = -np.inf
        assert bench.sample(logits, make_rows()).is_finite_S.all()

    def test_other_rows_draw_what_they_would_have_drawn(self, bench):
        logits, rows = random_logits(), make_rows(seed=3, top_p=0.9)
        expected = bench.tokens(logits, rows)
        logits[5] = np.nan
        found = bench.tokens(logits, rows)
        assert found[:5] + found[6:] == expected[:5] + expected[6:]

    def test_what_a_client_adds_is_no_fault_of_the_model(self, bench):
        row = make_row(temperature=0, logit_bias={7: -100.0}, min_tokens=1, stop_token_ids=(8,))
        bench.admit([row])
        assert bench.sample(random_logits(), [row]).is_finite_S.all()
