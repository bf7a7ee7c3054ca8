"""Which tokens of a prompt are pooled, chunk by chunk, and what the client gets of them.

The fake device gives a chunk's pooled tokens themselves, so a test can read what was pooled.
"""

from __future__ import annotations

import pytest

from server.engine.policy.sequences.pooling import pooled_positions
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.sequences.step import RowResult, ScheduledRow
from tests.engine.builders import make_sequence
from tests.engine.policy.test_results import FIRST
from tests.engine.policy.test_results import Bench as ResultsBench
from tests.engine.test_engine import Bench

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4]
WHOLE = {"last": bytes(PROMPT[-1:]), "mean": bytes(PROMPT), "cls": bytes(PROMPT[:1])}
POOLINGS = list(WHOLE)


def embed(bench, request_id, pooling, prompt=PROMPT):
    bench.submit(request_id, prompt, pooling=pooling, max_tokens=0)


def pooled(bench, request_id):
    [event] = bench.events()[request_id, 0]
    assert (event.token_ids, event.finish_reason) == ([], "stop")
    return b"".join(event.pooled)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_pooled_tokens_of_all_chunks_come_in_one_event(pooling):
    """A step has 8 tokens, the prompt 13."""
    bench = Bench()
    embed(bench, 1, pooling)
    bench.drain()
    assert pooled(bench, 1) == WHOLE[pooling]
    assert bench.observer.outcomes == ["stop"]
    assert bench.observer.first_tokens == []


def test_embeddings_run_next_to_requests_for_tokens():
    bench = Bench()
    [tokens] = bench.submit(1, PROMPT, max_tokens=6)
    for number, pooling in enumerate(POOLINGS):
        embed(bench, 2 + number, pooling)
    bench.drain()
    assert bench.tokens(1) == tokens
    assert [pooled(bench, 2 + i) for i in range(3)] == list(WHOLE.values())


@pytest.mark.parametrize(("pooling", "num_cached"), [("last", 12), ("mean", 0), ("cls", 0)])
def test_only_the_last_token_can_do_with_a_cached_prefix(pooling, num_cached):
    bench = Bench()
    bench.submit(1, PROMPT, max_tokens=1)
    while not bench.tokens(1):
        bench.step()
    embed(bench, 2, pooling)
    bench.drain()
    [event] = bench.events()[2, 0]
    assert event.num_cached_tokens == num_cached
    assert pooled(bench, 2) == WHOLE[pooling]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("num_steps", [1, 2])
def test_a_preempted_prompt_is_pooled_from_its_beginning(pooling, num_steps):
    bench = Bench()
    embed(bench, 1, pooling)
    bench.step(num_steps)
    [scheduler] = bench.ranks.schedulers
    [seq] = scheduler._running
    scheduler._choice.preempt(seq)
    bench.drain()
    assert pooled(bench, 1) == WHOLE[pooling]


def test_chunks_that_are_cut_elsewhere_after_a_preemption_are_not_added_to_the_old_ones():
    bench = ResultsBench(pooling="mean", max_tokens=0)
    for start, end in ((0, 1), (1, 2), (0, 2), (2, 3)):
        row = ScheduledRow(bench.seq, start, end - start, is_sampling=False, is_admitted=False)
        part = bytes(bench.seq.token_ids[start:end])
        event = bench.results.take(row, RowResult(pooled=part), FIRST)
    assert event.pooled == [bytes([1, 2]), bytes([3])]


def test_a_prompt_that_is_withdrawn_begins_again_on_the_new_version():
    bench = Bench()
    embed(bench, 1, "mean")
    bench.step(2)
    versions, second = bench.engine.versions, LoadedVersion("2", 1)
    first = versions.serving
    versions.add(second)
    versions.serve(second)
    bench.runner.loader.weights[second] = 2
    bench.ranks.withdraw(first)
    bench.drain()
    assert pooled(bench, 1) == WHOLE["mean"]
    assert bench.events()[1, 0][0].version == "2"


def test_an_output_that_is_not_finite_fails_the_request_and_its_content_is_not_found_again():
    bench = Bench()
    bench.runner.poison(1)
    embed(bench, 1, "last")
    bench.drain()
    assert bench.ends(1) == ["internal"]


@pytest.mark.parametrize("pooling", [*POOLINGS, None])
def test_every_pooled_position_is_in_exactly_one_chunk(pooling):
    seq = make_sequence(PROMPT, pooling=pooling, max_tokens=0)
    expected = {"last": [12], "mean": list(range(13)), "cls": [0], None: []}[pooling]
    for size in range(1, 14):
        chunks = [
            ScheduledRow(seq, start, min(size, 13 - start), is_sampling=False, is_admitted=False)
            for start in range(0, 13, size)
        ]
        assert [p for chunk in chunks for p in pooled_positions(chunk)] == expected


@pytest.mark.parametrize(("pooling", "needs"), [("mean", True), (None, False)])
def test_a_chunk_of_an_embedding_needs_finite_logits_though_it_draws_no_token(pooling, needs):
    """Logits that are not finite are the sign of hidden states that are not."""
    seq = make_sequence(PROMPT, pooling=pooling, max_tokens=0)
    row = ScheduledRow(seq, 0, 8, is_sampling=False, is_admitted=False)
    assert row.needs_finite is needs
