"""5,000 random things at every target cost nobody anything; `make fuzz` sends 100,000."""

from __future__ import annotations

from tests.fuzz.run import few_of_each, fuzz

COUNT, SEED = 5_000, 20_261_130


def test_random_requests_get_clear_answers_and_cost_nobody_else_anything():
    assert few_of_each(fuzz(COUNT, SEED)) == []
