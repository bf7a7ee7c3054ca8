"""Rooflines against what was worked out by hand from the published shapes and chips."""

from __future__ import annotations

import pytest

from models.presets import load_preset
from server.plan.request import blueprint_for
from server.plan.roofline import work_of
from server.plan.slice_types import find_slice

V6E = find_slice("v6e:2x2").chip


@pytest.fixture(scope="module")
def work(ask):
    def make(preset, slice_name="v6e:2x2", context=2048, **settings):
        request = ask(slice_name, load_preset(preset).config, context, **settings)
        return work_of(blueprint_for(request))

    return make


@pytest.mark.parametrize(
    ("preset", "slice_name", "batch", "settings", "milliseconds"),
    [
        ("llama-3.1-8b", "v6e:2x2", 64, {}, 4.907),
        ("llama-3.1-8b", "v6e:2x2", 256, {}, 12.764),
        ("llama-3.1-8b", "v6e:2x2", 256, {"kv_dtype": "fp8"}, 7.526),
        ("llama-3.1-8b", "v6e:2x2", 64, {"weight_dtype": "int8"}, 3.845),
        ("llama-3.1-8b", "v6e:1x1", 64, {}, 19.628),
        ("llama-3.1-8b", "v5e:2x2", 64, {}, 9.826),
        ("llama-3.3-70b", "v6e:2x4", 64, {}, 13.87),
        ("qwen3-8b", "v6e:2x2", 64, {}, 5.254),
        ("gemma-3-27b", "v6e:2x2", 32, {}, 11.181),
    ],
)
def test_decode_reads_its_weights_and_the_kv_of_2048_tokens_a_sequence(
    work, preset, slice_name, batch, settings, milliseconds
):
    chip = find_slice(slice_name).chip
    roofline = work(preset, slice_name, **settings).decode(chip, batch=batch, context=2048)
    assert roofline.seconds * 1e3 == pytest.approx(milliseconds, rel=2e-3)


def test_prefill_is_bound_by_its_products(work):
    roofline = work("llama-3.1-8b").prefill(V6E, tokens=2048, context=2048, logit_rows=16)
    assert roofline.seconds * 1e3 == pytest.approx(8.089, rel=1e-3)
    assert roofline.seconds == roofline.compute_s > roofline.memory_s


def test_a_window_is_read_and_not_what_lies_before_it(work):
    """Gemma 3 1B: of 26 layers 22 see 512 tokens, of one KV head of 256 in two bytes."""
    roofline = work("gemma-3-1b", "v6e:1x1").decode(V6E, batch=1, context=2048)
    read = (22 * 512 + 4 * 2048) * 2 * 256 * 2
    assert roofline.attention_s == pytest.approx(read / V6E.hbm_bytes_per_s)


def test_each_kind_of_layers_reads_keys_of_its_own_size(work):
    """Gemma 4 31B on four chips: 50 layers of 4 KV heads of 256 each, 10 of one of 512."""
    gemma4 = work("gemma-4-31b", context=4096, kv_context=4096, max_num_seqs=32)
    read = (50 * 1024 * 4 * 256 + 10 * 4096 * 512) * 2 * 2
    roofline = gemma4.decode(V6E, batch=1, context=4096)
    assert roofline.attention_s == pytest.approx(read / V6E.hbm_bytes_per_s)
    attended = 50 * (1024 - 1024**2 / 8192) * 256 + 10 * 2048 * 512
    products = gemma4.prefill(V6E, tokens=2048, context=4096)
    assert products.attention_s == pytest.approx(4 * 2048 * attended * 8 / V6E.flops)


def test_of_a_window_a_prompts_mean_token_sees_less(work):
    """Positions 0 to 1,023 of a window of 512: 256 in the mean of the first half, 512 after it."""
    config = work("gemma-3-1b", "v6e:1x1").config
    local = [window for window in config.layer_windows if window]
    roofline = work("gemma-3-1b", "v6e:1x1").prefill(V6E, tokens=1024, context=1024)
    attended = len(local) * (256 + 512) / 2 + (26 - len(local)) * 512
    flops = 4 * 1024 * attended * config.num_heads * config.head_dim
    assert roofline.attention_s == pytest.approx(flops / V6E.flops)


def test_few_tokens_read_the_experts_they_choose_and_many_read_all(work):
    moe = work("qwen3-30b-a3b")
    one = moe.decode(V6E, batch=1, context=128).memory_s
    many = moe.decode(V6E, batch=4096, context=128)
    read_once = moe.dense_bytes + moe.expert_bytes * 8 / 128
    assert one * V6E.hbm_bytes_per_s == pytest.approx(read_once, rel=1e-2)
    kv = many.attention_s
    everything = moe.dense_bytes + moe.expert_bytes
    assert (many.memory_s - kv) * V6E.hbm_bytes_per_s == pytest.approx(everything)


def test_a_token_multiplies_with_its_experts_alone(work):
    moe = work("qwen3-30b-a3b")
    flops = moe.prefill(V6E, tokens=4096, context=4096).compute_s * V6E.flops
    every_expert = 2 * 4096 * (moe.dense_params + moe.expert_params)
    assert flops < every_expert / 4


def test_a_prediction_adds_attention_to_the_cycles(work):
    roofline = work("llama-3.1-8b").decode(V6E, batch=64, context=2048)
    # 3.533 ms of cycles at the assumed 1.75 GHz.
    assert roofline.predict(6_182_750, V6E) * 1e3 == pytest.approx(6.152, rel=1e-3)
