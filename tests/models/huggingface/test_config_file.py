from __future__ import annotations

import contextlib
import json

import pytest
import transformers

from models.config import (
    RECURRENT,
    GlobalAttention,
    ModelConfigError,
    MoeConfig,
    RopeConfig,
    RopeScaling,
)
from models.huggingface.config_file import parse_config, read_config, supported_architectures
from tests.models.checkpoints import LLAMA

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA3_SCALING = RopeScaling(kind="llama3", factor=8.0, original_max_position=8192)
QWEN2 = LLAMA | {"architectures": ["Qwen2ForCausalLM"]}
QWEN3 = LLAMA | {"architectures": ["Qwen3ForCausalLM"]}
MISTRAL = LLAMA | {"architectures": ["MistralForCausalLM"]}
MOE = LLAMA | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
GEMMA2 = LLAMA | {
    "architectures": ["Gemma2ForCausalLM"],
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "query_pre_attn_scalar": 144,
    "sliding_window": 32,
}
GEMMA3 = LLAMA | {
    "architectures": ["Gemma3ForCausalLM"],
    "num_hidden_layers": 7,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "sliding_window": 32,
}
GEMMA4 = LLAMA | {
    "architectures": ["Gemma4ForCausalLM"],
    "num_hidden_layers": 7,
    "head_dim": 8,
    "global_head_dim": 16,
    "num_global_key_value_heads": 2,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "sliding_window": 32,
}
GPT_OSS = LLAMA | {
    "architectures": ["GptOssForCausalLM"],
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
MISTRAL3 = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "text_config": {
        key: LLAMA[key] for key in LLAMA if key not in ("architectures", "tie_word_embeddings")
    },
}
# A published vision checkpoint says of its text model only what is not the default.
QWEN3_5 = LLAMA | {
    "architectures": ["Qwen3_5ForCausalLM"],
    "num_hidden_layers": 4,
    "head_dim": 16,
    "rope_theta": 1e7,
    "partial_rotary_factor": 0.25,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
}
QWEN3_5_MOE = QWEN3_5 | {"architectures": ["Qwen3_5MoeForCausalLM"], "num_experts": 8}
VISION = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "eos_token_id": [1, 106],
    "torch_dtype": "bfloat16",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 1024,
    },
}


def without(hf, *keys):
    return {key: value for key, value in hf.items() if key not in keys}


def of_text(hf, **changes):
    return hf | {"text_config": hf["text_config"] | changes}


def test_a_plain_llama():
    config = parse_config(LLAMA)
    assert (config.vocab_size, config.hidden_size, config.num_layers) == (300, 64, 2)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (8, 4, 8)
    assert (config.mlp_size, config.max_position) == (96, 256)
    assert (config.rms_norm_eps, config.rope) == (1e-5, RopeConfig(theta=1e4))
    assert config.attention_scale == pytest.approx(8**-0.5)
    assert (config.tie_embeddings, config.dtype, config.eos_token_ids) == (True, "float32", (2,))
    assert not config.qkv_bias
    assert not config.qk_norm
    assert config.layer_windows == (None, None)


def test_a_configuration_is_a_compile_time_constant():
    assert hash(parse_config(LLAMA)) == hash(parse_config(dict(reversed(LLAMA.items()))))


@pytest.mark.parametrize(
    ("missing", "field", "default"),
    [
        ("num_key_value_heads", "num_kv_heads", 8),
        ("rope_theta", "rope", RopeConfig(theta=10_000.0)),
        ("rms_norm_eps", "rms_norm_eps", 1e-6),
        ("tie_word_embeddings", "tie_embeddings", False),
        ("eos_token_id", "eos_token_ids", ()),
        ("dtype", "dtype", "bfloat16"),
    ],
)
def test_what_may_be_missing(missing, field, default):
    assert getattr(parse_config(without(LLAMA, missing)), field) == default


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"head_dim": 32}, "head_dim", 32),
        ({"head_dim": None}, "head_dim", 8),
        ({"num_key_value_heads": None}, "num_kv_heads", 8),
        ({"dtype": None, "torch_dtype": "float16"}, "dtype", "float16"),
        ({"eos_token_id": [7, 8]}, "eos_token_ids", (7, 8)),
        ({"eos_token_id": None}, "eos_token_ids", ()),
        ({"rms_norm_eps": 1}, "rms_norm_eps", 1.0),
        ({"dtype": "torch.bfloat16"}, "dtype", "bfloat16"),
        ({"hidden_act": "swish"}, "activation", "silu"),
        ({"hidden_act": "gelu_new"}, "activation", "gelu_tanh"),
        ({"rms_norm_eps": None}, "rms_norm_eps", 1e-6),
        ({"sliding_window": 64}, "layer_windows", (None, None)),
        ({"architectures": ["Unknown", "LlamaForCausalLM"]}, "architecture", "LlamaForCausalLM"),
    ],
)
def test_what_a_field_may_say(change, field, value):
    assert getattr(parse_config(LLAMA | change), field) == value


@pytest.mark.parametrize(
    ("of_whole", "of_text_model", "tied"),
    [({}, {}, False), (True, {}, True), ({}, True, True), (True, False, False), (False, {}, False)],
)
def test_a_vision_checkpoint_may_say_of_its_text_model_or_of_the_whole_that_it_is_tied(
    of_whole, of_text_model, tied
):
    said = [
        {} if each == {} else {"tie_word_embeddings": each} for each in (of_whole, of_text_model)
    ]
    assert parse_config(of_text(MISTRAL3, **said[1]) | said[0]).tie_embeddings is tied


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}


@pytest.mark.parametrize(
    ("named", "scaling", "longest"),
    [
        pytest.param(256, YARN, 1024, id="named before it is stretched, as Qwen's cards say"),
        pytest.param(1024, YARN, 1024, id="named after it is stretched"),
        pytest.param(320, YARN, 1024, id="named with room for an answer, as Qwen3's is"),
        pytest.param(256, without(YARN, "original_max_position_embeddings"), 1024, id="one name"),
        pytest.param(1024, without(YARN, "factor"), 1024, id="the factor left out"),
        pytest.param(256, YARN | {"factor": 0.5}, 256, id="shrunk"),
        pytest.param(256, {"type": "linear", "factor": 4.0}, 256, id="another scaling"),
        pytest.param(256, {"rope_type": "llama3", **LLAMA3}, 256, id="another scaling that blends"),
    ],
)
def test_the_context_of_yarn_is_what_it_stretches(named, scaling, longest):
    hf = QWEN2 | {"max_position_embeddings": named, "rope_scaling": scaling}
    assert parse_config(hf).max_position == longest


@pytest.mark.parametrize(
    ("change", "theta", "scaling"),
    [
        ({"rope_theta": 5e5}, 5e5, None),
        ({"rope_scaling": None}, 1e4, None),
        ({"rope_scaling": {"rope_type": "default"}}, 1e4, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5, None),
        ({"rope_parameters": {"rope_theta": 5e5}}, 5e5, None),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            1e4,
            RopeScaling(kind="linear", factor=2.0),
        ),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}}, 1e4, LLAMA3_SCALING),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
            5e5,
            LLAMA3_SCALING,
        ),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    **without(LLAMA3, "original_max_position_embeddings"),
                }
            },
            1e4,
            RopeScaling(kind="llama3", factor=8.0, original_max_position=256),
        ),
    ],
)
def test_rope_in_its_old_and_new_spelling(change, theta, scaling):
    assert parse_config(LLAMA | change).rope == RopeConfig(theta=theta, scaling=scaling)


@pytest.mark.parametrize(
    ("hf", "fields"),
    [
        (LLAMA | {"attention_bias": True}, {"qkv_bias": True, "output_bias": True}),
        (LLAMA | {"mlp_bias": True}, {"mlp_bias": True, "qkv_bias": False}),
        (QWEN2, {"qkv_bias": True, "output_bias": False, "qk_norm": False}),
        (QWEN3, {"qkv_bias": False, "qk_norm": True}),
        (QWEN3 | {"attention_bias": True}, {"qkv_bias": True, "output_bias": True}),
        (MISTRAL, {"qkv_bias": False, "qk_norm": False}),
    ],
)
def test_what_an_architecture_adds(hf, fields):
    config = parse_config(hf)
    assert {field: getattr(config, field) for field in fields} == fields


def test_gemma_2_is_read_with_its_peculiarities():
    config = parse_config(GEMMA2)
    assert config.layer_windows == (32, None)
    assert (config.attention_softcap, config.logit_softcap) == (50.0, 30.0)
    assert config.attention_scale == pytest.approx(1 / 12)
    assert (config.post_norms, config.unit_offset, config.qk_norm) == (True, True, False)
    assert config.embedding_scale == 8.0
    assert config.local_rope == config.rope


def test_a_cap_left_out_is_not_a_cap_that_is_null():
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    config = parse_config(without(GEMMA2, *caps))
    assert (config.attention_softcap, config.logit_softcap) == (50.0, 30.0)
    config = parse_config(GEMMA2 | dict.fromkeys(caps))
    assert (config.attention_softcap, config.logit_softcap) == (None, None)


def test_experts_slide_in_every_layer_or_in_none():
    assert parse_config(MOE | SLIDING | {"max_window_layers": 1}).layer_windows == (32, 32)
    assert parse_config(MOE | {"sliding_window": 32}).layer_windows == (None, None)


def test_gemma_3_is_read_with_its_peculiarities():
    config = parse_config(GEMMA3)
    assert config.layer_windows == (32,) * 5 + (None, 32)
    assert config.pattern == (32,) * 5 + (None,)
    assert config.windows == (None, 32)
    scaling = RopeScaling(kind="linear", factor=8.0)
    assert config.rope_of(None) == RopeConfig(theta=1e6, scaling=scaling)
    assert config.rope_of(32) == RopeConfig(theta=1e4)
    assert config.qk_norm
    assert config.logit_softcap is None


def test_gemma_4_is_read_with_its_peculiarities():
    config = parse_config(GEMMA4)
    assert config.layer_windows == (32,) * 5 + (None, None)
    assert (config.head_dim, config.num_kv_heads, config.attention_scale) == (8, 4, 1.0)
    assert config.global_attention == GlobalAttention(
        head_dim=16, num_kv_heads=2, keys_as_values=True
    )
    assert (config.value_norm, config.layer_scale, config.unit_offset) == (True, True, False)
    assert config.rope == RopeConfig(theta=1e6, turning=0.25)
    assert config.local_rope == RopeConfig(theta=1e4)


def test_a_kind_of_layers_has_one_size():
    config = parse_config(GEMMA4)
    local, of_global = config.of_kind(32), config.of_layer(6)
    assert (local.head_dim, local.num_kv_heads, local.keys_as_values) == (8, 4, False)
    assert (of_global.head_dim, of_global.num_kv_heads, of_global.keys_as_values) == (16, 2, True)
    assert of_global == config.of_kind(None)
    assert parse_config(GEMMA3).of_kind(32) == parse_config(GEMMA3)


SIZES = ("global_head_dim", "num_global_key_value_heads")
LISTED = without(GEMMA4, *SIZES) | {
    "per_layer_config": {str(layer): {"head_dim": 16, "num_key_value_heads": 2} for layer in (5, 6)}
}


def test_sizes_by_layer_are_the_same_as_those_of_global_layers():
    assert parse_config(LISTED) == parse_config(GEMMA4)
    # Without that field, the number of KV heads is the same everywhere.
    own = parse_config(GEMMA4 | {"attention_k_eq_v": False}).global_attention
    assert own == GlobalAttention(head_dim=16, num_kv_heads=4, keys_as_values=False)
    same = GEMMA4 | {"attention_k_eq_v": False, "global_head_dim": 8}
    assert parse_config(same).global_attention is None


@pytest.mark.parametrize("keys_as_values", [False, True])
def test_a_deep_gemma_4_is_read_as_transformers_saves_it(tmp_path, keys_as_values):
    """From ten layers on it pads the numbers of layers: "05" and "11"."""
    sizes = {"global_head_dim": 16, "num_global_key_value_heads": 2, "head_dim": 8}
    saved = transformers.Gemma4TextConfig(
        **sizes,
        num_hidden_layers=12,
        attention_k_eq_v=keys_as_values,
        hidden_size_per_layer_input=0,
        architectures=["Gemma4ForCausalLM"],
    )
    saved.save_pretrained(tmp_path)
    assert "05" in json.loads((tmp_path / "config.json").read_text())["per_layer_config"]
    config = read_config(tmp_path)
    assert config.layer_windows == ((512,) * 5 + (None,)) * 2
    assert config.global_attention == GlobalAttention(
        head_dim=16, num_kv_heads=2 if keys_as_values else 4, keys_as_values=keys_as_values
    )


def test_experts_beside_an_mlp_are_read():
    moe = {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2}
    config = parse_config(GEMMA4 | moe | {"moe_intermediate_size": 32})
    assert config.moe == MoeConfig(
        num_experts=8, num_experts_per_token=2, expert_size=32, renormalize=True, beside_mlp=True
    )


def test_qwen3_5_is_read_with_its_peculiarities():
    config = parse_config(QWEN3_5)
    assert config.layer_windows == (RECURRENT, RECURRENT, RECURRENT, None)
    assert (config.windows, config.kinds) == ((None,), (None, RECURRENT))
    assert config.rope == RopeConfig(theta=1e7, part=0.25)
    assert (config.output_gate, config.unit_offset, config.qk_norm) == (True, True, True)
    recurrence = config.of_layer(0).recurrence
    assert (recurrence.key_size, recurrence.value_size, recurrence.conv_size) == (2048, 4096, 4)
    assert config.of_layer(3).recurrence is None
    listed = QWEN3_5 | {"layer_types": ["full_attention"] * 4}
    assert parse_config(listed).recurrence is None


def test_the_experts_of_qwen3_5_have_a_shared_one_beside_them():
    config = parse_config(QWEN3_5_MOE | {"shared_expert_intermediate_size": 40})
    assert (config.moe.shared, config.moe.renormalize, config.mlp_size) == (True, True, 40)
    assert (config.moe.num_experts, config.moe.num_experts_per_token) == (8, 8)


def test_the_text_model_of_a_vision_checkpoint():
    config = parse_config(VISION)
    assert (config.vocab_size, config.num_heads, config.num_kv_heads) == (262_208, 8, 4)
    assert (config.head_dim, config.max_position) == (256, 131_072)
    assert config.layer_windows.count(None) == 5
    assert config.rope.theta == 1e6
    assert (config.eos_token_ids, config.dtype) == ((1, 106), "bfloat16")


def test_a_mixture_of_experts_is_read():
    expected = MoeConfig(num_experts=8, num_experts_per_token=2, expert_size=32, renormalize=False)
    assert parse_config(MOE).moe == expected
    assert parse_config(MOE | {"norm_topk_prob": True}).moe.renormalize
    assert parse_config(MOE).qk_norm


SLIDING = {"use_sliding_window": True, "sliding_window": 32}


@pytest.mark.parametrize(
    ("hf", "windows"),
    [
        (MISTRAL | {"sliding_window": 32}, (32, 32)),
        (MISTRAL | {"sliding_window": None}, (None, None)),
        (MISTRAL, (4096, 4096)),
        (QWEN2 | {"use_sliding_window": True, "max_window_layers": 0}, (4096, 4096)),
        (GPT_OSS, (128, None)),
        (LLAMA | {"architectures": ["Ministral3ForCausalLM"]}, (None, None)),
        (MISTRAL3, (4096, 4096)),
        (of_text(MISTRAL3, sliding_window=None), (None, None)),
        (of_text(MISTRAL3, model_type="ministral3"), (None, None)),
        (QWEN2 | {"sliding_window": 32}, (None, None)),
        (QWEN2 | {"use_sliding_window": False, "sliding_window": 32}, (None, None)),
        (QWEN2 | {"use_sliding_window": True, "sliding_window": None}, (None, None)),
        (QWEN2 | SLIDING | {"max_window_layers": 0}, (32, 32)),
        (QWEN2 | SLIDING | {"max_window_layers": 1}, (None, 32)),
        (QWEN2 | SLIDING | {"max_window_layers": 2}, (None, None)),
        (QWEN3 | SLIDING | {"layer_types": ["full_attention"] * 2}, (None, None)),
        (
            QWEN3 | SLIDING | {"layer_types": ["sliding_attention"] * 2, "max_window_layers": 28},
            (32, 32),
        ),
    ],
)
def test_the_window_of_every_layer(hf, windows):
    assert parse_config(hf).layer_windows == windows


@pytest.mark.parametrize(
    ("hf", "sentence"),
    [
        (LLAMA | {"architectures": ["MambaForCausalLM"]}, r"\['MambaForCausalLM'\] is not"),
        (LLAMA | {"architectures": ["X"]}, "these are: LlamaForCausalLM, Mistral"),
        (without(LLAMA, "architectures"), "architecture unnamed is not supported"),
        (LLAMA | {"architectures": "LlamaForCausalLM"}, "architectures must be a list"),
        (LLAMA | {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        (
            LLAMA | {"quantization_config": {"quant_method": "awq"}},
            "quantized checkpoint cannot be served: bits None .* bfloat16",
        ),
        (without(LLAMA, "hidden_size"), "hidden_size must be a positive integer, not None"),
        (without(LLAMA, "intermediate_size"), "intermediate_size must be a positive integer"),
        (LLAMA | {"vocab_size": "300"}, "vocab_size must be a positive integer, not '300'"),
        (LLAMA | {"num_hidden_layers": 2.0}, "num_hidden_layers must be a positive integer"),
        (LLAMA | {"num_attention_heads": 0}, "num_attention_heads must be a positive integer"),
        (LLAMA | {"num_attention_heads": True}, "must be a positive integer, not True"),
        (LLAMA | {"head_dim": -8}, "head_dim must be a positive integer, not -8"),
        (LLAMA | {"head_dim": 7}, "head_dim 7 is odd"),
        (LLAMA | {"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide .* 8"),
        (GEMMA4 | {"num_global_key_value_heads": 3}, "num_key_value_heads 3 does not divide .* 8"),
        (GEMMA4 | {"global_head_dim": 7}, "head_dim 7 is odd"),
        (without(GEMMA4, "hidden_size_per_layer_input"), "embeddings for each layer, as in Gem"),
        (GEMMA4 | {"num_kv_shared_layers": 2}, "num_kv_shared_layers .* is not supported"),
        (GEMMA4 | {"use_bidirectional_attention": "all"}, "use_bidirectional_attention is not"),
        (GEMMA4 | {"attention_bias": True}, "attention_bias is not supported"),
        (GEMMA4 | {"layer_types": ["full_attention"]}, "layer_types must list 7 layers"),
        (GEMMA4 | {"layer_types": [[]] * 7}, r"layer types \['\[\]'\] are not supported"),
        (LLAMA | {"rope_scaling": YARN, "rope_theta": 1.0}, "rope_theta must be above 1 where"),
        (
            LLAMA | {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "low_freq_factor": 4.0}},
            "high_freq_factor 4 must be above low_freq_factor 4",
        ),
        (GEMMA2 | {"sliding_window": None}, "sliding_window must be set where layers slide"),
        (GPT_OSS | {"sliding_window": None}, "sliding_window must be set where layers slide"),
        (LLAMA | {"dtype": "torch.int8"}, "dtype 'torch.int8' is not supported"),
        (LLAMA | {"rope_scaling": YARN | {"factor": 1e9}}, "YaRN's context must be at most 21474"),
        (LISTED | {"per_layer_config": [1]}, "per_layer_config must be an object of objects"),
        (LISTED | {"per_layer_config": {"9": {}}}, "per_layer_config names no layer by '9'"),
        (LISTED | {"per_layer_config": {"five": {}}}, "names no layer by 'five'"),
        (LISTED | {"per_layer_config": {"5": {}, "05": {}}}, "names layer 5 twice"),
        (LISTED | {"per_layer_config": {"5": {"head_dim": 16}}}, "gives layer 6 other sizes than"),
        (LISTED | {"per_layer_config": {"0": {"sliding_window": 4}}}, "with sliding_window is not"),
        (GEMMA4 | {"enable_moe_block": True}, "num_experts must be a positive integer, not None"),
        (
            GEMMA4 | {"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.25}}},
            "partial_rotary_factor 0.25 is not supported",
        ),
        (LLAMA | {"rms_norm_eps": "small"}, "rms_norm_eps must be a positive number, not 'small'"),
        (LLAMA | {"rope_theta": "10000"}, "rope_theta must be a positive number, not '10000'"),
        (LLAMA | {"eos_token_id": "</s>"}, "eos_token_id must be a token id .* not '</s>'"),
        (LLAMA | {"eos_token_id": [2, "3"]}, "eos_token_id must be a token id or a list of them"),
        (LLAMA | {"eos_token_id": [-1]}, "eos_token_id must be"),
        (LLAMA | {"dtype": "int8"}, "dtype 'int8' is not supported; .* bfloat16"),
        (LLAMA | {"rope_scaling": "linear"}, "rope_scaling must be an object, not 'linear'"),
        (LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 4}}, "'dynamic' is not supported"),
        (LLAMA | {"rope_scaling": {"type": "mrope"}}, "'mrope' is not supported; .* and yarn are"),
        (LLAMA | {"rope_scaling": {"type": "linear"}}, "factor must be a positive number"),
        (
            LLAMA | {"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 0}},
            "beta_fast must be a positive number",
        ),
        (
            GEMMA3 | {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            "rope_parameters has nothing for sliding_attention",
        ),
        (LLAMA | {"rope_scaling": {"factor": 4.0}}, "a factor but no rope_type"),
        (LLAMA | {"rope_theta": float("nan")}, "rope_theta must be a positive number, not nan"),
        (LLAMA | {"rms_norm_eps": float("inf")}, "rms_norm_eps must be a positive number, not inf"),
        (LLAMA | {"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 10000"),
        (LLAMA | {"vocab_size": 10**18}, "vocab_size must be at most 2147483647"),
        (LLAMA | {"compression_config": {"format": "int"}}, "quant_method None is not supported"),
        (
            LLAMA | {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            "low_freq_factor must be a positive number, not None",
        ),
        (
            LLAMA | {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "partial_rotary_factor 0.5 is not supported",
        ),
        (MISTRAL | {"sliding_window": "32"}, "sliding_window must be a positive integer"),
        (QWEN2 | SLIDING | {"max_window_layers": "1"}, "max_window_layers must be an integer"),
        (QWEN3 | SLIDING | {"layer_types": ["full_attention"]}, "layer_types must list 2 layers"),
        (QWEN3 | SLIDING | {"layer_types": ["linear"] * 2}, r"layer types \['linear'\] are not"),
        (MOE | {"decoder_sparse_step": 2}, "experts on some layers only"),
        (MOE | {"num_experts": None}, "num_experts must be a positive integer"),
        (
            MOE | {"num_experts_per_tok": 9},
            "num_experts_per_tok is greater than",
        ),
        (QWEN3_5 | {"attention_bias": True}, "attention_bias is not supported"),
        (QWEN3_5 | {"attn_output_gate": False}, "attn_output_gate false is not supported"),
        (QWEN3_5_MOE | {"mlp_only_layers": [0]}, "mlp_only_layers. are not supported"),
        (QWEN3_5_MOE | {"num_experts_per_tok": 9}, "num_experts_per_tok is greater than"),
        (QWEN3_5 | {"layer_types": ["linear_attention"] * 4}, "has no full_attention; a model"),
        (QWEN3_5 | {"layer_types": ["full_attention"]}, "layer_types must list 4 layers"),
        (QWEN3_5 | {"layer_types": ["mamba"] * 4}, r"layer types \['mamba'\] are not supported"),
        (QWEN3_5 | {"linear_num_key_heads": 5}, "linear_num_key_heads 5 does not divide .* 32"),
        (QWEN3_5 | {"linear_conv_kernel_dim": 1}, "linear_conv_kernel_dim 1 is not supported"),
        (
            QWEN3_5 | {"partial_rotary_factor": 0.9},
            "0.9 does not leave an even part of head_dim 16",
        ),
        (QWEN3_5 | {"rope_parameters": {"rope_type": "proportional"}}, "proportional is not"),
        (GEMMA2 | {"use_bidirectional_attention": True}, "use_bidirectional_attention is not"),
        (GEMMA3 | {"final_logit_softcapping": 30.0}, "final_logit_softcapping is not supported"),
        (GEMMA2 | {"hidden_activation": "relu"}, "hidden_act 'relu' is not supported"),
        (VISION | {"text_config": 3}, "text_config must be an object"),
    ],
)
def test_what_is_refused_says_why(hf, sentence):
    with pytest.raises(ModelConfigError, match=sentence):
        parse_config(hf)


def test_every_supported_architecture_parses():
    for name in supported_architectures():
        # By default, a text model of Gemma 4 has embeddings for each layer.
        text = LLAMA | {"hidden_size_per_layer_input": 0, "full_attention_interval": 2}
        hf = MOE | text | {"architectures": [name], "text_config": text, "num_local_experts": 4}
        assert parse_config(hf).architecture == name


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(
            content if isinstance(content, str) else json.dumps(content)
        )
    return folder


def test_the_end_tokens_of_all_files_end_an_answer(tmp_path):
    write(tmp_path, config=LLAMA, generation_config={"eos_token_id": [5, 6]})
    added = {"7": {"content": "<end>"}, "300": {"content": "<|im_end|>"}}
    tokenizer = {
        "eos_token": "<end>",
        "added_tokens_decoder": added,
        "chat_template": "<|im_end|>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    # 300 is no token of the model, whose vocabulary has 300.
    assert read_config(tmp_path).eos_token_ids == (5, 6, 2, 7)


def test_code_of_the_checkpoint_is_refused(tmp_path):
    write(tmp_path, config=LLAMA | {"auto_map": {"AutoModelForCausalLM": "own.Own"}})
    with pytest.raises(ModelConfigError, match=r"auto_map names code .* AutoModelForCausalLM"):
        read_config(tmp_path)


def test_a_sampling_option_that_is_no_number_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "generation_config.json").write_text('{"temperature": "warm"}')
    with pytest.raises(ModelConfigError, match="temperature must be a number, not 'warm'"):
        read_config(tmp_path)


def test_a_generation_config_without_end_tokens_changes_nothing(tmp_path):
    write(tmp_path, config=LLAMA, generation_config={"temperature": 0.6})
    assert read_config(tmp_path).eos_token_ids == (2,)


LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, r"config\.json is missing: is this a checkpoint folder"),
        ({"config": "{"}, r"config\.json cannot be read"),
        ({"config": "[]"}, r"config\.json is not a JSON object"),
        ({"config": LFS_POINTER}, r"config\.json is a pointer of Git LFS"),
        ({"config": "\ufeff{}"}, r"config\.json cannot be read: .*BOM"),
        ({"config": '{"vocab_size": 1, "vocab_size": 2}'}, r"'vocab_size' stands in it twice"),
        ({"config": "[" * 100_000}, r"config\.json cannot be read"),
        ({"config": " " * (16 << 20) + "{}"}, r"has 16777218 bytes; at most 16777216 are read"),
        ({"config": LLAMA, "generation_config": "no"}, r"generation_config\.json cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, files, sentence):
    with pytest.raises(ModelConfigError, match=sentence):
        read_config(write(tmp_path, **files))


def test_a_model_is_the_same_however_its_versions_are_stored():
    """A version in fewer bits takes the place of one in bfloat16 while the server runs."""
    stored = LLAMA | {"quantization_config": {"quant_method": "fp8"}}
    assert parse_config(stored) == parse_config(LLAMA)
    assert (parse_config(stored).stored_bits, parse_config(LLAMA).stored_bits) == (8, None)


def test_a_bidirectional_model_sees_half_a_window_behind_a_token_and_half_before_it():
    one_way = parse_config(GEMMA3)
    both_ways = parse_config(GEMMA3 | {"use_bidirectional_attention": True})
    assert (one_way.bidirectional, both_ways.bidirectional) == (False, True)
    halves = [None if window is None else window // 2 + 1 for window in one_way.layer_windows]
    assert list(both_ways.layer_windows) == halves


FAMILIES = {
    "llama": LLAMA | {"mlp_bias": False},
    "qwen2": QWEN2 | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": QWEN3 | {"attention_bias": False},
    "mistral": MISTRAL | {"sliding_window": 8},
    "moe": MOE | {"norm_topk_prob": True, "mlp_only_layers": [], "decoder_sparse_step": 1},
    "gpt_oss": without(MOE, "num_experts", "moe_intermediate_size")
    | {"architectures": ["GptOssForCausalLM"], "num_local_experts": 4, "sliding_window": 8}
    | {"swiglu_limit": 7.0, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma2": GEMMA2,
    "gemma3": GEMMA3 | {"use_bidirectional_attention": False},
    "gemma4": without(GEMMA4, "rope_theta")
    | {"enable_moe_block": False, "num_kv_shared_layers": 0},
    "qwen3_5": QWEN3_5,
    "yarn": LLAMA | {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "truncate": True}},
}
# What no field of a decoder is, each of another JSON type; 1 and true are numbers and flags.
WRONG = ([], {}, "x", [[]], {"a": []}, True, 1.5)


def is_of_type(value, wrong):
    """Whether JSON of another type could still be meant: 1.5 for 1, an object for an object."""
    kinds = (int, float) if isinstance(value, int | float) and not isinstance(value, bool) else ()
    is_other_word = isinstance(value, str) and wrong == "x"
    return type(wrong) in (type(value), *kinds) and not is_other_word


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_is_read_by_its_type_and_refused_by_its_name(family):
    hf = FAMILIES[family]
    for key, value in hf.items():
        for wrong in WRONG:
            if is_of_type(value, wrong) or (key == "eos_token_id" and wrong == []):
                continue
            with pytest.raises(ModelConfigError) as refused:
                parse_config(hf | {key: wrong})
            words = str(refused.value)
            assert key in words or key == "architectures", (key, wrong, words)


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling", "quantization_config"])
@pytest.mark.parametrize("wrong", [[], "x", 5, {"rope_type": []}, {"quant_method": {}}, [[]]])
def test_a_field_of_fields_is_read_by_its_type(key, wrong):
    with contextlib.suppress(ModelConfigError):
        parse_config(LLAMA | {key: wrong})


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("eos", [300, [2, 99999]])
def test_an_end_token_that_the_vocabulary_lacks_is_refused_by_its_file(tmp_path, name, eos):
    files = {"config.json": LLAMA, "generation_config.json": {"eos_token_id": 2}}
    files[name] = files[name] | {"eos_token_id": eos}
    for each, fields in files.items():
        (tmp_path / each).write_text(json.dumps(fields))
    with pytest.raises(ModelConfigError, match=rf"{name}: eos_token_id (300|99999) is no token"):
        read_config(tmp_path)
