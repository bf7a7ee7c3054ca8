from __future__ import annotations

import pytest

from server.engine.policy.queue.pace import Pace


def test_the_rate_of_prompts_is_learnt_from_steps_that_are_half_full_or_more():
    pace = Pace(100)
    pace.on_step(49, 1.0)
    assert pace.prompt_tokens_per_second is None
    pace.on_step(50, 0.5)
    assert pace.prompt_tokens_per_second == pytest.approx(100)
    pace.on_step(100, 0.5)
    assert pace.prompt_tokens_per_second == pytest.approx(120)


def test_slots_are_counted_while_somebody_waits_and_a_halt_counts_too():
    pace = Pace(100)
    for second in range(7):
        pace.on_releases(1, float(second), is_anyone_waiting=True)
    assert pace.slots_per_second(6.0) is None
    pace.on_releases(1, 7.0, is_anyone_waiting=True)
    assert pace.slots_per_second(7.0) == pytest.approx(1.0)
    assert pace.slots_per_second(14.0) == pytest.approx(0.5)
    pace.on_releases(0, 15.0, is_anyone_waiting=False)
    assert pace.slots_per_second(15.0) is None
