from __future__ import annotations

import pytest

from server.engine.policy.whole_prompt_choice import WholePromptChoice
from tests.engine.builders import make_ranks
from tests.engine.policy.test_scheduler import add, finish_all, run, shape


@pytest.fixture
def scheduler():
    return make_ranks(
        choice=WholePromptChoice,
        prefix_caching=False,
        max_num_seqs=4,
        max_num_batched_tokens=16,
        max_model_len=16,
    )


def test_every_prompt_runs_in_one_step_and_waits_for_one_that_has_room(scheduler):
    for request_id, length in enumerate((10, 9, 6, 16, 1)):
        add(scheduler, range(length), request_id=request_id, max_tokens=0)
    steps = []
    while scheduler.num_unfinished:
        steps.append(shape(run(scheduler)[0]))
    assert steps == [[(0, 0, 10)], [(1, 0, 9), (2, 0, 6)], [(3, 0, 16)], [(4, 0, 1)]]


def test_nobody_overtakes_a_long_prompt_whose_turn_it_is(scheduler):
    """Else short ones that keep coming would keep it out for ever."""
    add(scheduler, range(4), request_id=0, max_tokens=0)
    add(scheduler, range(16), request_id=1, max_tokens=0)
    add(scheduler, range(2), request_id=2, max_tokens=0)
    assert shape(run(scheduler)[0]) == [(0, 0, 4)]
    assert shape(run(scheduler)[0]) == [(1, 0, 16)]


def test_golden_prompts_decode_next_to_prompts(scheduler):
    add(scheduler, range(3), request_id=0, max_tokens=4)
    run(scheduler)
    add(scheduler, range(12), request_id=1, max_tokens=0)
    assert sorted(shape(run(scheduler)[0])) == [(0, 3, 1), (1, 0, 12)]
    finish_all(scheduler)
