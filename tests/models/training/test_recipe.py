from __future__ import annotations

import pytest

from models.huggingface.config_file import parse_config
from models.training.recipe import CONFIG, Branch, Recipe


def test_the_rate_rises_to_the_plateau_and_stays():
    recipe = Recipe(warmup_steps=4)
    assert [recipe.trunk_rate(step) for step in (0, 1, 3, 4, 1000)] == [0.25, 0.5, 1, 1, 1]


def test_a_branch_falls_from_the_plateau_to_nothing():
    rate = Recipe().branch_rate(Branch("1", start=10, end=14))
    assert [rate(step) for step in range(10, 15)] == [1, 0.75, 0.5, 0.25, 0]


def test_branches_leave_the_trunk_one_after_the_other():
    first, second = Recipe().branches
    assert Recipe().warmup_steps < first.start < first.end
    assert first.start < second.start < second.end
    assert (first.version, second.version) == ("1", "2")


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_heads", 8), ("num_kv_heads", 4), ("tie_embeddings", True)],
)
def test_the_shape_is_one_that_splits_over_a_slice(field, value):
    assert getattr(parse_config(CONFIG), field) == value
