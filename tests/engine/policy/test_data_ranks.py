"""What ranks do together; that each sequence gets its own is for the property tests."""

from __future__ import annotations

import pytest

from server.engine.policy.admission import AdmissionError
from server.engine.policy.data_ranks import Ranks
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.sequences.step import RowResult, StepResult
from server.engine.policy.served_versions import ServedVersions
from tests.engine.builders import make_choices, make_scheduler, make_sequence, serve

NEXT = LoadedVersion("2", 1)


class Driven:
    """Ranks, and a device that draws token 5 for every row."""

    def __init__(self, num_ranks=2, **limits):
        versions = ServedVersions(LoadedVersion())
        self.schedulers = [make_scheduler(versions=versions, **limits) for _ in range(num_ranks)]
        self.ranks = Ranks(self.schedulers)
        self.num_requests = 0

    def submit(self, *prompts, n=1, **params):
        """A request with each of the prompts; the choices of all."""
        seqs = []
        for prompt in prompts:
            self.num_requests += 1
            choices = make_choices(prompt, n, request_id=self.num_requests, **params)
            self.ranks.add(choices, 0.0)
            seqs += choices
        return seqs

    def step(self, num_steps=1):
        for _ in range(num_steps):
            batch = self.ranks.schedule(0.0)
            rows = tuple(RowResult((5,) if row.is_sampling else ()) for row in batch.rows)
            self.ranks.postprocess(batch, StepResult(rows))
        return batch


def ranks_of(seqs):
    return [seq.rank for seq in seqs]


class TestChoosing:
    def test_requests_go_to_the_least_busy_rank(self):
        assert ranks_of(Driven(3).submit([1], [2], [3], [4], [6])) == [0, 1, 2, 0, 1]

    def test_choices_of_a_request_stay_together(self):
        assert ranks_of(Driven().submit([1], [2], n=2)) == [0, 0, 1, 1]

    def test_a_prompt_goes_where_its_beginning_is_cached(self):
        driven = Driven()
        prompt = [1, 2, 3, 4, 6, 7, 8, 9]
        driven.submit([1], prompt)
        driven.step(3)
        assert ranks_of(driven.submit([*prompt, 1], [*prompt, 2])) == [1, 1]

    def test_a_prompt_avoids_a_much_busier_rank_even_where_its_beginning_is_cached(self):
        driven = Driven(max_num_seqs=8)
        prompt = [1, 2, 3, 4, 6, 7, 8, 9]
        driven.submit(prompt)
        driven.step(3)
        seqs = driven.submit(*[[*prompt, i] for i in range(8)])
        assert ranks_of(seqs).count(0) < 6
        assert set(ranks_of(seqs)) == {0, 1}

    def test_a_full_queue_is_passed_over_while_another_has_room(self):
        driven = Driven(max_queue_len=1)
        assert ranks_of(driven.submit([1], [2])) == [0, 1]
        assert driven.ranks.load().is_queue_full
        with pytest.raises(AdmissionError, match="1 requests wait already"):
            driven.submit([3])


class TestSteps:
    def test_a_step_has_the_rows_of_all_ranks_rank_by_rank(self):
        driven = Driven(3)
        driven.submit([1], [2], [3], [4])
        assert [row.seq.rank for row in driven.step().rows] == [0, 0, 1, 2]

    def test_a_step_runs_one_version_on_all_ranks(self):
        driven = Driven(max_num_seqs=2)
        driven.submit([1], [2], max_tokens=20)
        driven.step()
        serve(driven.ranks, NEXT)
        driven.submit([3], [4], max_tokens=20)
        versions = []
        for _ in range(4):
            batch = driven.step()
            assert {row.seq.version for row in batch.rows} == {batch.version}
            assert {row.seq.rank for row in batch.rows} == {0, 1}
            versions.append(batch.version)
        assert versions[:2] == versions[2:]
        assert set(versions) == {LoadedVersion(), NEXT}
        assert len(driven.ranks.users(NEXT)) == 2

    def test_an_aborted_sequence_gives_back_its_own_ranks_blocks(self):
        driven = Driven()
        first, second = driven.submit([1] * 9, [2] * 9)
        driven.step(2)
        driven.ranks.finish(second, "abort")
        assert (
            driven.schedulers[1].load().num_free_blocks
            == driven.schedulers[1].load().num_usable_blocks
        )
        assert (
            driven.schedulers[0].load().num_free_blocks
            < driven.schedulers[0].load().num_usable_blocks
        )
        driven.ranks.finish(first, "abort")
        driven.ranks.check_integrity()
        load = driven.ranks.load()
        assert load.num_free_blocks == load.num_usable_blocks

    def test_deadlines_pass_on_every_rank(self):
        driven = Driven()
        seqs = driven.submit([1], [2], deadline=1.0)
        assert [seq for seq, _ in driven.ranks.expire(2.0)] == seqs


class TestBalance:
    def test_what_waits_moves_to_a_rank_that_is_idle(self):
        driven = Driven(max_num_seqs=1)
        long, short, waiting = driven.submit([1], [2], [3])
        assert ranks_of([long, short, waiting]) == [0, 1, 0]
        driven.ranks.finish(short, "abort")
        driven.step(2)
        assert waiting.rank == 1
        assert waiting.slot >= 0
        driven.ranks.check_integrity()

    def test_all_choices_move(self):
        driven = Driven(max_num_seqs=2)
        driven.submit([1], n=2)
        (brief,) = driven.submit([2])
        choices = driven.submit([3], n=2)
        assert ranks_of(choices) == [1, 1]
        (late,) = driven.submit([4])
        assert late.rank == 0
        driven.ranks.finish(brief, "abort")
        driven.step(3)
        assert len(set(ranks_of(choices))) == 1

    def test_a_sequence_that_has_begun_stays_on_its_rank(self):
        driven = Driven(num_blocks=4, max_num_seqs=2, max_model_len=12)
        driven.submit([1] * 3, max_tokens=9)
        (brief,) = driven.submit([2])
        (second,) = driven.submit([3] * 3, max_tokens=9)
        assert second.rank == 0
        driven.step(2)
        driven.ranks.finish(brief, "abort")
        driven.step(8)
        assert second.first_scheduled_time is not None
        assert second.rank == 0

    def test_a_request_that_names_no_version_waits_while_nothing_is_served(self):
        driven = Driven()
        serve(driven.ranks, None)
        (seq,) = driven.submit([1])
        assert not driven.step()
        serve(driven.ranks, NEXT)
        driven.step()
        assert seq.version == NEXT


def test_numbers_are_of_all_ranks_together():
    driven = Driven(max_num_seqs=1, num_blocks=5)
    driven.submit([1], [2], [3])
    driven.step()
    load = driven.ranks.load()
    assert (load.num_sequences_running, load.num_requests_waiting) == (2, 1)
    assert (load.num_unfinished, load.num_usable_blocks) == (3, 8)
    assert driven.ranks.num_unfinished == 3


def test_a_wrong_request_is_refused_as_by_one_scheduler():
    with pytest.raises(AdmissionError, match="the prompt is empty"):
        Driven().ranks.add([make_sequence([])], 0.0)
