from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from models.huggingface.config_file import parse_config
from models.training.batches import Batches
from models.training.optimizer import Descent
from models.training.recipe import Branch, Recipe
from models.training.run import Run
from tests.models.checkpoints import LLAMA

SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
CONFIG = parse_config(LLAMA | SIZES | {"vocab_size": 128})
RECIPE = Recipe(
    branches=(Branch("1", 4, 6), Branch("2", 8, 10)), batch_size=2, window=16, warmup_steps=2
)


@pytest.fixture(scope="module")
def batches():
    """Counting up, over and over: easy to learn."""
    tokens = np.arange(2000, dtype=np.int32) % 50
    return Batches([tokens], batch_size=2, window=16, seed=0)


def weights(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))]


def are_equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def train(folder, batches, recipe=RECIPE):
    return dict(Run(CONFIG, recipe, batches, folder).versions())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, batches):
    return train(tmp_path_factory.mktemp("whole"), batches)


def test_the_loss_falls(batches):
    descent = Descent(CONFIG, RECIPE)
    state, losses = descent.start, []
    for step in range(40):
        state, loss = descent.step(state, batches[step], 1.0)
        losses.append(float(loss))
    assert losses[0] == pytest.approx(np.log(128), rel=0.1)
    assert losses[-1] < losses[0] / 2
    assert int(state.step) == 40


def test_a_rate_of_zero_leaves_the_weights_as_they_are(batches):
    descent = Descent(CONFIG, RECIPE)
    state, _ = descent.step(descent.start, batches[0], 0.0)
    assert are_equal(descent.model(state), descent.model(descent.start))


def test_the_seed_decides_the_weights_before_the_first_step():
    one, other = (Descent(CONFIG, Recipe(seed=seed)) for seed in (0, 1))
    assert not are_equal(one.model(one.start), other.model(other.start))


def test_a_run_gives_every_version_and_they_differ(whole):
    assert list(whole) == ["1", "2"]
    assert not are_equal(whole["1"], whole["2"])


def test_the_same_recipe_gives_the_same_weights(tmp_path, batches, whole):
    again = train(tmp_path, batches)
    assert all(are_equal(again[version], whole[version]) for version in whole)


def test_a_branch_leaves_the_trunk_as_it_was(tmp_path, batches, whole):
    alone = Recipe(branches=RECIPE.branches[1:], batch_size=2, window=16, warmup_steps=2)
    assert are_equal(train(tmp_path, batches, alone)["2"], whole["2"])


class FakeBrokenBatches:
    """Fails at one step, as a machine does."""

    def __init__(self, batches, step):
        self._batches, self._step = batches, step

    def __getitem__(self, step):
        if step == self._step:
            raise KeyboardInterrupt
        return self._batches[step]


@pytest.mark.parametrize("step", [0, 5, 6, 9])
def test_a_broken_run_goes_on_to_the_same_end(tmp_path, batches, whole, step):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, FakeBrokenBatches(batches, step))
    again = train(tmp_path, batches)
    assert all(are_equal(again[version], whole[version]) for version in whole)


def test_a_finished_leg_is_not_run_again(tmp_path, batches, whole):
    train(tmp_path, batches)
    again = train(tmp_path, FakeBrokenBatches(batches, 3))
    assert are_equal(again["2"], whole["2"])
