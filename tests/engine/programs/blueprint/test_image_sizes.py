"""How much room there is for images, and which settings do not go with them."""

from __future__ import annotations

from dataclasses import replace

import jax
import pytest

from models.huggingface.config_file import parse_config
from models.sharding import make_mesh
from models.weights.loading import abstract_decoder
from server.config.engine_config import EngineConfig
from server.config.setting import ConfigError
from server.engine.programs.blueprint.blueprint import choose_layout, make_blueprint, measure
from server.engine.programs.blueprint.chip_memory import SizeError, tower_bytes
from server.engine.programs.blueprint.image_sizes import served_config
from server.engine.programs.inputs.buckets import Bucket
from tests.golden.random_models import WITH_IMAGES

# An image is 16 tokens of 96 numbers.
CONFIG = parse_config(WITH_IMAGES["gemma3-images"])


def draw(config=CONFIG, **settings):
    engine = EngineConfig(**({"max_num_seqs": 4} | settings))
    mesh = make_mesh(config, 1, jax.devices()[:1])
    return make_blueprint(served_config(config, engine), engine, mesh, None)


def test_a_step_has_room_for_the_images_that_its_tokens_hold():
    sizes = draw(max_num_batched_tokens=64).sizes
    assert (sizes.images.num_tokens, sizes.images.num_images) == (16, 4)
    assert sizes.empty_image().pixels.shape == (32, 32, 3)
    buckets = [Bucket(16, 4, False), Bucket(48, 4, False), Bucket(512, 4, False)]
    assert [sizes.num_images_in(bucket) for bucket in buckets] == [1, 3, 4]


def test_images_that_differ_in_size_have_room_for_the_smallest():
    """An image is 10 to 20 tokens, of cells of 2 x 2 patches of 4 x 4 pixels."""
    config = parse_config(WITH_IMAGES["gemma4-images"])
    config = replace(config, vision=replace(config.vision, num_tokens=20))
    sizes = draw(config, max_num_batched_tokens=64, max_model_len=256).sizes
    assert (sizes.images.num_tokens, sizes.images.num_images) == (20, 6)
    buckets = [Bucket(8, 4, False), Bucket(16, 4, False), Bucket(64, 4, False)]
    assert [sizes.num_images_in(bucket) for bucket in buckets] == [0, 1, 6]
    assert sizes.empty_image().pixels.shape == (20, 4, 48)


def test_steps_of_decodes_and_of_drafts_have_none():
    sizes = draw(max_num_batched_tokens=64).sizes
    assert sizes.num_images_in(Bucket(32, 32, decode_only=True)) == 0
    assert sizes.num_images_in(Bucket(32, 4, decode_only=False, num_drafts=7)) == 0
    assert sizes.empty_input(Bucket(32, 32, decode_only=True)).image_start_M is None


def test_the_smallest_step_there_may_be_has_an_image_next_to_every_sequence():
    assert draw(max_num_batched_tokens=20).sizes.images.num_images == 1
    with pytest.raises(ConfigError, match="is 19, but an image of 16 tokens next to 4"):
        draw(max_num_batched_tokens=19)
    larger = replace(CONFIG, vision=replace(CONFIG.vision, num_tokens=256))
    engine = EngineConfig(max_num_seqs=32)
    blueprint = make_blueprint(larger, engine, make_mesh(larger, 1, jax.devices()[:1]), None)
    assert blueprint.ladder.max_num_batched_tokens == 288


def test_a_server_of_text_has_neither_tower_nor_room():
    blueprint = draw(max_images_per_prompt=0, max_num_batched_tokens=8)
    assert blueprint.sizes.images is None
    assert blueprint.model.vision is None


def test_where_memory_is_short_the_tower_is_named_as_what_could_be_left_out():
    with pytest.raises(SizeError, match=r"no room for KV.*; or serve text only, by max_images"):
        draw(kv_cache_bytes=1)
    with pytest.raises(SizeError, match=r"kv_dtype fp8$"):
        draw(kv_cache_bytes=1, max_images_per_prompt=0)


def test_memory_counts_the_tower_with_the_weights_and_the_rows_beside():
    engine = EngineConfig(max_num_seqs=4)
    layout = choose_layout(CONFIG, engine, "gpu", 1)
    with_images, of_text = (
        measure(abstract_decoder(config, layout), layout, engine, 1 << 30)
        for config in (CONFIG, replace(CONFIG, vision=None))
    )
    assert (with_images.images, of_text.images) == (2048 // 16 * 16 * 96 * 4, 0)
    mesh = make_mesh(CONFIG, 1, jax.devices()[:1])
    tower = tower_bytes(abstract_decoder(CONFIG, layout), mesh)
    assert tower > 0
    assert with_images.weights - of_text.weights == tower


def test_programs_that_have_no_images_are_those_of_a_server_of_text():
    """A decode costs what it did: it takes no tower and no rows."""
    larger = replace(CONFIG, vision=replace(CONFIG.vision, num_tokens=64))
    with_images, of_text = (
        draw(larger, max_num_batched_tokens=128, num_blocks=9, **settings).programs()
        for settings in ({}, {"max_images_per_prompt": 0})
    )
    for bucket, is_same in (
        (Bucket(2, 2, decode_only=True), True),
        (Bucket(32, 4, decode_only=False), True),
        (Bucket(64, 4, decode_only=False), False),
    ):
        texts = [programs.lower(bucket).as_text() for programs in (with_images, of_text)]
        assert (texts[0] == texts[1]) is is_same, bucket
