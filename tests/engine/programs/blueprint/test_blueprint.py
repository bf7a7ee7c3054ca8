"""What a server is made of before anything is compiled: its sizes, its ladder, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from models.cpu_kernels import library
from models.huggingface.config_file import parse_config
from models.sharding import make_mesh
from server.config.engine_config import EngineConfig
from server.config.setting import ConfigError
from server.engine.programs.blueprint.blueprint import choose_layout, make_blueprint
from server.engine.programs.blueprint.chip_memory import adapter_bytes
from server.engine.programs.blueprint.matrix_dtype import dtype_note
from server.engine.programs.inputs.buckets import Bucket
from tests.golden.configs import CONFIGS
from tests.models.checkpoints import LLAMA

CONFIG = parse_config(LLAMA)
HYBRID = parse_config(CONFIGS["qwen3_5"])


def draw(num_devices=1, **settings):
    mesh = make_mesh(CONFIG, num_devices, jax.devices()[:num_devices])
    return make_blueprint(CONFIG, EngineConfig(**settings), mesh, None)


def test_a_cpu_takes_one_gibibyte_of_kv_in_blocks_of_64():
    blueprint = draw()
    assert blueprint.memory is None
    assert blueprint.sizes.block_size == 64
    assert blueprint.sizes.num_blocks == ((1 << 30) // (2 * 2 * 4 * 8 * 4 * 64),)


def test_kv_bytes_are_of_all_devices_together():
    one, four = draw(1, kv_cache_bytes=1 << 20), draw(4, kv_cache_bytes=1 << 20)
    assert one.sizes.num_blocks == four.sizes.num_blocks == (32,)


def test_blocks_that_are_asked_for_are_taken_at_their_word():
    blueprint = draw(num_blocks=7, block_size=4)
    assert (blueprint.sizes.num_blocks, blueprint.sizes.block_size) == ((7,), 4)


@pytest.mark.parametrize(
    ("weight_dtype", "stored_bits", "expected"),
    [
        ("auto", None, False),
        ("auto", 4, True),
        ("auto", 8, True),
        ("int8", None, True),
        ("float", 4, False),
    ],
)
def test_matrices_stay_int8_if_the_checkpoint_is_quantized_or_the_setting_asks(
    weight_dtype, stored_bits, expected
):
    config = replace(CONFIG, stored_bits=stored_bits)
    layout = choose_layout(config, EngineConfig(weight_dtype=weight_dtype), "cpu", 1)
    assert layout.quantized is expected


@pytest.mark.parametrize("compiled", [True, False])
def test_kernels_are_for_cpu_where_they_are_compiled_and_not_turned_off(monkeypatch, compiled):
    monkeypatch.setattr(library, "are_available", lambda: compiled)
    assert choose_layout(CONFIG, EngineConfig(), "cpu", 1).cpu_kernels is compiled
    assert not choose_layout(CONFIG, EngineConfig(cpu_kernels="off"), "cpu", 1).cpu_kernels
    assert not choose_layout(CONFIG, EngineConfig(), "tpu", 1).cpu_kernels


@pytest.mark.parametrize(("asked", "longest"), [(0, 256), (100, 100), (256, 256)])
def test_a_sequence_is_as_long_as_is_asked_for_and_the_model_allows(asked, longest):
    assert draw(max_model_len=asked).sizes.slot.max_model_len == longest


def test_a_longer_sequence_than_the_model_allows_is_refused():
    with pytest.raises(ConfigError, match=r"max_model_len is 257, but .* allows 256 tokens"):
        draw(max_model_len=257)


def test_float16_becomes_bfloat16_on_a_tpu_whose_kernels_know_none():
    half, brain = (replace(CONFIG, dtype=dtype) for dtype in ("float16", "bfloat16"))
    engine = EngineConfig()
    assert choose_layout(half, engine, "tpu", 1) == choose_layout(brain, engine, "tpu", 1)
    assert "float16" in dtype_note(half, engine, "tpu")
    assert choose_layout(half, engine, "cpu", 1).dtype == np.float16


@pytest.mark.parametrize(
    ("dtype", "asked", "platform"),
    [("float16", "float32", "tpu"), ("float16", "auto", "cpu"), ("bfloat16", "auto", "tpu")],
)
def test_nothing_is_said_of_a_type_that_is_the_checkpoints_or_was_asked_for(dtype, asked, platform):
    assert not dtype_note(replace(CONFIG, dtype=dtype), EngineConfig(dtype=asked), platform)


def test_a_cpus_ladder_is_fine_and_starts_small():
    buckets = draw(max_num_seqs=4).ladder.buckets
    assert buckets[0] == Bucket(2, 2, decode_only=True)
    assert Bucket(32, 4, decode_only=False) in buckets
    assert buckets[-1] == Bucket(128, 4, decode_only=False)


class FakeTpu:
    """A device of which nothing is asked but what it is."""

    platform = "tpu"
    id = 0


@pytest.fixture
def tpu_mesh():
    return Mesh(np.array([[FakeTpu()]], dtype=object), ("data", "tensor"))


@pytest.mark.parametrize("block_size", [8, 48, 512])
def test_a_tpu_takes_no_block_that_its_kernels_were_not_compiled_with(tpu_mesh, block_size):
    engine = EngineConfig(block_size=block_size)
    with pytest.raises(ConfigError, match=rf"block_size is {block_size}; on TPU it must be one of"):
        make_blueprint(CONFIG, engine, tpu_mesh, 1 << 34)


def test_host_memory_keeps_blocks_of_each_kind_in_proportion_to_the_device():
    blueprint = draw(num_blocks=10, prefix_host_bytes=20 * (2 * 2 * 4 * 8 * 4 * 64))
    assert blueprint.sizes.num_host_blocks == (20,)
    assert draw(num_blocks=10).sizes.num_host_blocks == ()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prefix_host_bytes": 5}, "too little"),
        ({"prefix_host_bytes": 1 << 20, "prefix_caching": False}, "prefix_caching"),
    ],
)
def test_host_memory_for_prefixes_is_refused_where_it_could_keep_nothing(settings, words):
    with pytest.raises(ConfigError, match=words):
        draw(num_blocks=10, **settings)


def test_host_memory_for_prefixes_refuses_several_data_ranks():
    mesh = Mesh(np.array(jax.devices()[:2]).reshape(2, 1), ("data", "tensor"))
    with pytest.raises(ConfigError, match="data ranks"):
        make_blueprint(CONFIG, EngineConfig(prefix_host_bytes=1 << 20), mesh, None)


def test_speculation_refuses_several_data_ranks():
    mesh = make_mesh(CONFIG, 1, jax.devices()[:2], data_size=2)
    with pytest.raises(ConfigError, match="prompt_lookup with 2 data ranks; it needs one"):
        make_blueprint(CONFIG, EngineConfig(speculation="prompt_lookup"), mesh, None)


def test_exact_refuses_several_data_ranks():
    mesh = make_mesh(CONFIG, 1, jax.devices()[:2], data_size=2)
    with pytest.raises(ConfigError, match="exact is true with 2 data ranks; it needs one"):
        make_blueprint(CONFIG, EngineConfig(exact=True), mesh, None)


def test_adapters_are_refused_with_exact_and_on_several_hosts():
    mesh = make_mesh(CONFIG, 1, jax.devices()[:1])
    with pytest.raises(ConfigError, match="exact is true with max_loras above 0"):
        make_blueprint(CONFIG, EngineConfig(exact=True, max_loras=1), mesh, None)
    several = SimpleNamespace(devices=mesh.devices, shape=mesh.shape, is_multi_process=True)
    with pytest.raises(ConfigError, match=r"on several hosts; .*merge the adapter into"):
        make_blueprint(CONFIG, EngineConfig(max_loras=1), several, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"speculation": "prompt_lookup"}, "wrong drafts cannot be taken back: set speculation to"),
        ({"max_loras": 1}, "no adapter changes yet: merge the adapter into the model, or set"),
        ({"prefix_host_bytes": 1 << 20}, "not kept in host memory: set prefix_host_bytes to 0"),
    ],
)
def test_what_a_recurrent_state_cannot_follow_is_refused(settings, words):
    mesh = make_mesh(HYBRID, 1, jax.devices()[:1])
    with pytest.raises(ConfigError, match=words):
        make_blueprint(HYBRID, EngineConfig(**settings), mesh, None)
    assert make_blueprint(HYBRID, EngineConfig(), mesh, None).sizes.num_states


@pytest.mark.parametrize(
    ("settings", "num_states"),
    [({}, 11), ({"prefix_caching": False}, 6), ({"exact": True}, 6)],
)
def test_a_state_is_kept_for_each_sequence_and_as_many_prefixes(settings, num_states):
    mesh = make_mesh(HYBRID, 1, jax.devices()[:1])
    sizes = make_blueprint(HYBRID, EngineConfig(max_num_seqs=5, **settings), mesh, None).sizes
    assert (sizes.num_states, sizes.num_snapshots) == (num_states, num_states - 6)
    assert draw(max_num_seqs=5).sizes.num_states == 0


def test_slots_of_adapters_take_memory_only_where_a_setting_asks_for_them():
    layouts = [
        choose_layout(CONFIG, EngineConfig(max_loras=count), "cpu", 1) for count in (0, 2, 4)
    ]
    mesh = make_mesh(CONFIG, 1, jax.devices()[:1])
    none, two, four = (adapter_bytes(CONFIG, layout, mesh) for layout in layouts)
    # Of all slots, and of one adapter on its way.
    assert (none, layouts[0].adapters) == (0, None)
    assert four * 3 == two * 5
