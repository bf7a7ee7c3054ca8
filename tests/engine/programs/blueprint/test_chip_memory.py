from __future__ import annotations

from dataclasses import replace

import jax
import pytest

from models.huggingface.config_file import parse_config
from models.sharding import make_mesh
from models.weights.loading import random_leaves
from server.config.engine_config import EngineConfig
from server.engine.programs.blueprint.blueprint import make_blueprint, measure
from server.engine.programs.blueprint.chip_memory import (
    MAX_TABLE_ENTRIES,
    ChipMemory,
    SizeError,
    block_bytes,
    check_table,
    kind_bytes,
    state_bytes,
    tree_bytes,
    weight_bytes,
)
from server.engine.programs.blueprint.kv_blocks import count_blocks
from tests.golden.configs import CONFIGS
from tests.models.checkpoints import LLAMA

CONFIG = parse_config(LLAMA)


def draw(num_devices=1, **settings):
    mesh = make_mesh(CONFIG, num_devices, jax.devices()[:num_devices])
    return make_blueprint(CONFIG, EngineConfig(**settings), mesh, None)


def test_what_is_left_for_kv_is_the_usable_part_less_everything_else():
    memory = ChipMemory(usable=1000, weights=300, sampler=20, temporaries=50)
    assert memory.for_kv == 630


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_weights_are_what_their_arrays_take_of_a_device(num_devices):
    blueprint = draw(num_devices)
    leaves = random_leaves(CONFIG, blueprint.layout, blueprint.mesh)
    taken = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert weight_bytes(blueprint.model, blueprint.mesh) == taken


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_a_block_is_keys_and_values_of_one_layer_and_a_devices_heads(num_devices):
    blueprint = draw(num_devices)
    # 4 heads of 8 in float32.
    of_layer = 2 * 4 * 8 * 4 * 16 // num_devices
    assert block_bytes(CONFIG, blueprint.layout, 16) == {None: of_layer}
    assert kind_bytes(CONFIG, blueprint.layout, 16) == {None: 2 * of_layer}


@pytest.mark.parametrize(("num_devices", "global_heads"), [(1, 2), (2, 1), (4, 1)])
def test_each_kind_of_layers_has_blocks_of_its_own_size(num_devices, global_heads):
    """Gemma 4: 3 global layers of 2 KV heads of 32, 4 local ones of 4 of 16, in float32."""
    config = parse_config(CONFIGS["gemma4"])
    mesh = make_mesh(config, num_devices, jax.devices()[:num_devices])
    layout = make_blueprint(config, EngineConfig(), mesh, None).layout
    expected = {None: 2 * global_heads * 32 * 4 * 16, 8: 2 * 4 * 16 * 4 * 16 // num_devices}
    assert block_bytes(config, layout, 16) == expected
    assert kind_bytes(config, layout, 16) == {None: 3 * expected[None], 8: 4 * expected[8]}


@pytest.mark.parametrize("num_devices", [1, 4])
def test_states_are_counted_for_every_slot_and_have_no_blocks(num_devices):
    """Qwen3.5: 6 of 7 layers, each with 8 matrices of 16 x 24 and 3 inputs of 320 channels."""
    config = parse_config(CONFIGS["qwen3_5"])
    mesh = make_mesh(config, num_devices, jax.devices()[:num_devices])
    engine = EngineConfig(max_num_seqs=5, prefix_caching=False)
    blueprint = make_blueprint(config, engine, mesh, None)
    of_slot = 6 * 4 * (8 * 16 * 24 + 3 * 320) // num_devices
    assert state_bytes(config, blueprint.layout, 6) == 6 * of_slot
    programs = blueprint.programs()
    states, specs = programs.abstract_state().recurrent, programs.state_specs().recurrent
    assert tree_bytes(states, specs, mesh) == 6 * of_slot
    heads = 2 if num_devices == 1 else 1
    assert kind_bytes(config, blueprint.layout, 16) == {None: heads * 2 * 32 * 4 * 16}
    assert measure(blueprint.model, blueprint.layout, engine, 1 << 30).states == 6 * of_slot
    prefixes = replace(engine, prefix_caching=True)
    assert measure(blueprint.model, blueprint.layout, prefixes, 1 << 30).states == 11 * of_slot


@pytest.mark.parametrize("name", ["gemma3", "gemma4", "gemma4-moe", "qwen3_5"])
@pytest.mark.parametrize("num_devices", [1, 4])
def test_the_pools_fill_the_bytes_for_kv_and_no_more(name, num_devices):
    config, kv_bytes = parse_config(CONFIGS[name]), 30_000_000
    mesh = make_mesh(config, num_devices, jax.devices()[:num_devices])
    engine = EngineConfig(kv_cache_bytes=kv_bytes, max_num_seqs=4)
    blueprint = make_blueprint(config, engine, mesh, None)
    pools = blueprint.programs().abstract_state().kv
    taken = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pools))
    of_kind = kind_bytes(config, blueprint.layout, blueprint.sizes.block_size)
    assert kv_bytes - num_devices * max(of_kind.values()) < taken <= kv_bytes


def test_blocks_are_whole_and_none_is_promised_that_has_no_room():
    assert count_blocks(1000, 64, 3) == 15
    with pytest.raises(SizeError, match="no room for KV"):
        count_blocks(383, 64, 3)
    with pytest.raises(SizeError, match=r"1\.00 GiB per chip are missing"):
        count_blocks(384 - (1 << 30), 64, 3)


def test_tables_fit_up_to_what_was_seen_to_compile():
    check_table(max_num_seqs=MAX_TABLE_ENTRIES, max_model_len=128, block_size=128)
    with pytest.raises(SizeError, match=r"max_model_len to 98304, max_num_seqs to 192"):
        check_table(max_num_seqs=256, max_model_len=131_072, block_size=128)


@pytest.mark.parametrize(
    "lowered", [{"max_model_len": 98_304}, {"max_num_seqs": 192}, {"block_size": 256}]
)
def test_what_a_refused_table_is_told_to_lower_does_help(lowered):
    sizes = {"max_num_seqs": 256, "max_model_len": 131_072, "block_size": 128} | lowered
    check_table(**sizes)
