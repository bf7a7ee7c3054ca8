"""A choice that another replica began is gone on with: the same tokens, wherever it was cut."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.engine.builders import make_choices, make_scheduler, make_sequence
from tests.engine.device.test_identity import PENALTIES, Session, build, make_request
from tests.engine.test_engine import Bench

NUM_CUTS = 41
PROMPT = [1, 2, 3, 4, 5, 6]
REQUESTS = {
    "greedy": make_request(0, 40, max_tokens=48, temperature=0.0),
    "greedy, penalised": make_request(300, 70, max_tokens=48, temperature=0.0, **PENALTIES),
    "sampled": make_request(100, 33, max_tokens=48, temperature=1.0, seed=7),
    "sampled, all options": make_request(
        *(700, 30),
        max_tokens=48,
        seed=13,
        min_tokens=45,
        stop_token_ids=(11, 15, 16),
        **{"temperature": 0.9, "top_p": 0.9, "top_k": 40, **PENALTIES},
    ),
}


class TestPolicy:
    @pytest.mark.parametrize("num_received", range(12))
    def test_the_rest_is_what_would_have_come(self, num_received):
        bench = Bench()
        [expected] = bench.submit(1, PROMPT, max_tokens=12)
        bench.submit(2, PROMPT, max_tokens=12, received=[expected[:num_received]])
        bench.drain()
        assert bench.tokens(2) == expected[num_received:]
        assert bench.ends(2) == ["length"]

    def test_choices_go_on_from_where_each_was(self):
        bench = Bench()
        whole = bench.submit(1, PROMPT, n=3)
        bench.submit(2, PROMPT, n=3, received=[whole[0][:5], [], whole[2][:1]])
        bench.drain()
        assert [bench.tokens(2, i) for i in range(3)] == [whole[0][5:], whole[1], whole[2][1:]]

    def test_a_choice_that_has_ended_is_left_out_and_the_resumedstill_counts_once(self):
        bench = Bench()
        bench.submit(1, PROMPT, n=2, received=[None, []])
        bench.drain()
        assert (1, 0) not in bench.events()
        assert bench.observer.outcomes == ["length"]
        assert len(bench.observer.admitted) == len(bench.observer.first_tokens) == 1

    def test_a_resumed_choice_is_preempted_and_comes_back_like_any_other(self):
        bench = Bench(num_blocks=9)
        [first] = bench.submit(1, PROMPT, max_tokens=14)
        [second] = bench.submit(2, [9, *PROMPT], max_tokens=14, received=[[]])
        bench.submit(3, [9, *PROMPT], max_tokens=14, received=[second[:6]])
        bench.drain()
        assert bench.observer.num_preempted > 0
        assert (bench.tokens(1), bench.tokens(3)) == (first, second[6:])

    def test_cached_tokens_are_of_the_prompt_alone(self):
        bench = Bench()
        [expected] = bench.submit(1, PROMPT, max_tokens=12)
        bench.drain()
        again = Bench(clock=None)
        again.submit(1, PROMPT, max_tokens=12)
        while len(again.tokens(1)) < 12:
            again.step()
        again.submit(2, PROMPT, max_tokens=12, received=[expected[:9]])
        again.drain()
        assert again.events()[2, 0][0].num_cached_tokens == len(PROMPT)

    def test_a_resumed_choice_that_no_longer_fits_is_refused(self):
        bench = Bench(max_model_len=12)
        bench.submit(1, PROMPT, max_tokens=20, received=[[0] * 6])
        bench.drain()
        [event] = bench.events()[1, 0]
        assert event.error == "invalid_request"
        assert "a prompt of 12 tokens" in event.message

    def test_time_per_token_counts_what_was_generated_here(self):
        seq = make_sequence(PROMPT, received=[7, 7, 7])
        seq.first_token_time, seq.last_token_time = 1.0, 3.0
        seq.token_ids += [8, 8, 8]
        assert (seq.num_prompt_tokens, seq.num_own_tokens) == (6, 3)
        assert seq.seconds_per_output_token == 1.0

    def test_every_choice_is_checked_not_the_first_alone(self):
        scheduler = make_scheduler(max_model_len=12)
        long = make_sequence(PROMPT, index=1, received=[0] * 6)
        with pytest.raises(Exception, match="leaves no room"):
            scheduler.add([*make_choices(PROMPT, 1), long], 0.0)


@pytest.fixture(scope="module")
def base():
    return build()


@pytest.mark.parametrize("resumed", REQUESTS.values(), ids=REQUESTS)
def test_a_real_model_gives_exactly_the_rest_in_float32(base, resumed):
    whole = Session(*base).run([resumed])[0, 0]
    assert len(whole) > NUM_CUTS
    cuts = [replace(resumed, received=[whole[:k]]) for k in range(NUM_CUTS)]
    rests = Session(*base).run(cuts)
    assert [whole[:k] + rests[k, 0] for k in range(NUM_CUTS)] == [whole] * NUM_CUTS
