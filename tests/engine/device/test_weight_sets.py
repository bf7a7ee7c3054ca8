"""Sets of weights by version: what is refused before anything is read, and what is freed."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from models.checkpoint.checkpoint import Checkpoint, CheckpointError
from models.huggingface.config_file import parse_config
from models.sharding import make_mesh
from server.config.engine_config import EngineConfig
from server.engine.device.weight_sets import WeightSets
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.programs.blueprint.blueprint import make_blueprint
from tests.models.checkpoints import LLAMA, write_checkpoint

ONE, TWO = LoadedVersion("1", 0), LoadedVersion("2", 1)


def no_progress(_detail, _fraction):
    """Nobody watches."""


@pytest.fixture
def sets():
    config = parse_config(LLAMA)
    blueprint = make_blueprint(
        config, EngineConfig(), make_mesh(config, 1, jax.devices()[:1]), None
    )
    return WeightSets(blueprint)


@pytest.fixture
def folder(tmp_path):
    """A folder of a version, as a version's folder is opened."""

    def make(name, seed=0, **changes):
        write_checkpoint(tmp_path / name, LLAMA | changes, seed)
        return SimpleNamespace(
            copy=tmp_path / name, place=name, checkpoint=lambda: Checkpoint(tmp_path / name)
        )

    return make


def test_another_shape_is_refused_with_both_values_and_what_to_do(sets, folder):
    wider = folder("wide", intermediate_size=2 * LLAMA["intermediate_size"])
    with pytest.raises(CheckpointError, match="wide has another architecture or shape") as caught:
        sets.stage(wider, no_progress)
    size = LLAMA["intermediate_size"]
    assert f"{2 * size}, not {size}" in str(caught.value)
    assert "start pods on it instead" in str(caught.value)


def test_a_device_without_room_for_another_set_is_refused_with_numbers(sets, folder):
    stats = {"bytes_limit": 5 << 20, "bytes_in_use": 5 << 20}
    sets._devices = [SimpleNamespace(platform="tpu", memory_stats=lambda: stats)]
    with pytest.raises(CheckpointError, match=r"takes .* per chip, but only 0\.00 GiB are free"):
        sets.load(TWO, folder("same"), no_progress)


def values(leaves):
    return [np.asarray(leaf).tolist() for leaf in leaves]


def test_versions_are_kept_apart_until_they_are_dropped(sets, folder):
    sets.load(ONE, folder("one", seed=1), no_progress)
    sets.load(TWO, folder("two", seed=2), no_progress)
    assert values(sets[ONE]) != values(sets[TWO])
    sets.drop(ONE)
    sets.drop(ONE)
    assert sets[TWO]
    with pytest.raises(KeyError):
        sets[ONE]


def test_staged_weights_change_places_with_those_of_a_version_and_back(sets, folder):
    sets.load(ONE, folder("one", seed=1), no_progress)
    first = values(sets[ONE])
    staged = sets.stage(folder("two", seed=2), no_progress)
    sets.exchange(ONE, TWO, staged)
    assert values(sets[TWO]) != first
    with pytest.raises(KeyError):
        sets[ONE]
    sets.exchange(TWO, ONE, staged)
    assert values(sets[ONE]) == first
