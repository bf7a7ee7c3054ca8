from __future__ import annotations

from dataclasses import replace

import jax
import pytest

from models.presets import load_preset
from models.sharding import MeshError
from server.config.engine_config import EngineConfig
from server.engine.programs.blueprint.mesh_choice import choose_mesh, choose_split

LLAMA = load_preset("llama-3.1-8b").config
V6E_BYTES = 31 << 30
# 16 GB of weights, and 128 KiB of KV a token.
FEW = EngineConfig(max_num_seqs=8, max_model_len=2048)
SOME = replace(FEW, max_num_seqs=64)
MANY = replace(FEW, max_num_seqs=256)


def split(engine, *, config=LLAMA, platform="tpu", num_devices=4, chip_bytes=V6E_BYTES):
    """(data ranks, devices of each)."""
    return choose_split(config, engine, platform, num_devices, chip_bytes)


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        pytest.param(FEW, (4, 1), id="one chip holds weights and KV"),
        pytest.param(SOME, (2, 2), id="KV for them all takes two"),
        pytest.param(MANY, (1, 4), id="takes four"),
        pytest.param(replace(MANY, kv_dtype="fp8"), (2, 2), id="half the KV takes two"),
        pytest.param(replace(SOME, weight_dtype="int8"), (4, 1), id="so do half the weights"),
        pytest.param(replace(FEW, max_model_len=131072), (2, 2), id="one of the longest must fit"),
        pytest.param(replace(SOME, swap_policy="availability"), (2, 2), id="two sets of weights"),
        pytest.param(replace(FEW, swap_policy="availability"), (2, 2), id="which one cannot hold"),
    ],
)
def test_the_fewest_chips_that_hold_what_is_to_be_served_share_each_layer(engine, expected):
    assert split(engine) == expected


def test_what_is_asked_for_by_size_must_fit_too():
    assert split(replace(FEW, kv_cache_bytes=8 << 30)) == (4, 1)
    assert split(replace(FEW, kv_cache_bytes=16 << 30)) == (2, 2)
    assert split(replace(FEW, num_blocks=500)) == (4, 1)
    assert split(replace(FEW, num_blocks=1000)) == (2, 2)


def test_where_nothing_fits_it_is_the_largest_whose_refusal_says_what_is_missing():
    large = load_preset("llama-3.3-70b").config
    assert split(FEW, config=large) == (1, 4)


def test_a_larger_slice_has_more_ranks_and_not_thinner_ones():
    assert split(SOME, num_devices=16) == (8, 2)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_where_memory_bounds_nothing_one_device_is_enough(platform):
    assert split(MANY, platform=platform, chip_bytes=None) == (4, 1)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"tensor_parallel_size": 4}, (1, 4)),
        ({"tensor_parallel_size": 2}, (2, 2)),
        ({"data_parallel_size": 1}, (1, 4)),
        ({"data_parallel_size": 2}, (2, 2)),
        ({"tensor_parallel_size": 1, "data_parallel_size": 3}, (3, 1)),
        ({"exact": True}, (1, 4)),
        ({"exact": True, "tensor_parallel_size": 1}, (1, 1)),
    ],
)
def test_the_settings_have_the_last_word(sizes, expected):
    assert split(replace(FEW, **sizes)) == expected


def test_a_size_that_does_not_suit_is_refused_with_those_that_would():
    with pytest.raises(MeshError, match=r"32 query heads.*these would: 1, 2, 4$"):
        split(replace(FEW, tensor_parallel_size=3))


def test_more_ranks_than_there_are_devices_for_are_refused():
    engine = replace(FEW, tensor_parallel_size=2, data_parallel_size=5)
    with pytest.raises(MeshError, match="4 would do"):
        choose_mesh(LLAMA, engine, jax.devices()[:8], None)


def test_the_mesh_is_made_of_the_devices_given():
    mesh = choose_mesh(LLAMA, replace(FEW, tensor_parallel_size=2), jax.devices()[:6], None)
    assert dict(mesh.shape) == {"data": 3, "tensor": 2}
