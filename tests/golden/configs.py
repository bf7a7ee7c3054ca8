"""The config.json of every small random checkpoint, in the spellings that are published.

One for every way the families differ: rope scaling (in both spellings), a tied or untied head,
biases, norms, head sizes (also by layer), windows by layer, soft caps, experts, and the text model
of a vision checkpoint. Python 3.11 can read this file: the reference environment does.
"""

from __future__ import annotations

from typing import Any

_COMMON = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "dtype": "float32",
}
# The blended part of the scaling lies within the positions of the prompts.
_LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Published Gemma checkpoints leave tie_word_embeddings and more to their family's defaults. The
# hidden size has a root that bfloat16 cannot hold, and is not heads times head size.
_GEMMA = {
    "vocab_size": 512,
    "hidden_size": 96,
    "num_attention_heads": 8,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "dtype": "float32",
}

_GEMMA4 = {
    "vocab_size": 512,
    "hidden_size": 96,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "sliding_window": 8,
    "final_logit_softcapping": 0.7,
    "bos_token_id": 2,
    "eos_token_id": [1, 106],
    "pad_token_id": 0,
    # Of 16 pairs in a head of 32, 4 turn.
    "rope_parameters": {
        "full_attention": {
            "rope_type": "proportional",
            "rope_theta": 2000.0,
            "partial_rotary_factor": 0.25,
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    },
}
_QWEN3_5 = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "eos_token_id": 1,
    "tie_word_embeddings": False,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 500.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [3, 3, 2],
        "mrope_interleaved": True,
    },
    "dtype": "float32",
}
_FULL, _SLIDING = "full_attention", "sliding_attention"

CONFIGS: dict[str, dict[str, Any]] = {
    "llama3-untied": _COMMON
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": 16,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **_LLAMA3},
    },
    "llama3-tied": _COMMON
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "llama3", **_LLAMA3},
    },
    "qwen2": _COMMON
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "use_sliding_window": False,
        "sliding_window": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "qwen3": _COMMON
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "mistral": _COMMON
    | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": None,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    },
    "mistral-window": _COMMON
    | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "num_key_value_heads": 2,
        "sliding_window": 20,
        "rope_theta": 10000.0,
    },
    "qwen2-mixed-window": _COMMON
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 2,
        "rope_theta": 1000000.0,
    },
    "qwen3-moe": _COMMON
    | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_hidden_layers": 3,
        "head_dim": 16,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 48,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 3,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
    },
    # Positions pass the original context, so that the queries grow.
    "ministral3": _COMMON
    | {
        "architectures": ["Ministral3ForCausalLM"],
        "model_type": "ministral3",
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": None,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 8,
            "max_position_embeddings": 128,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "gpt-oss": _COMMON
    | {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "num_hidden_layers": 4,
        "head_dim": 16,
        "attention_bias": True,
        "intermediate_size": 48,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "swiglu_limit": 7.0,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 8.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 32,
        },
    },
    # Two value heads to a key head; half of a head is rotated. Published checkpoints read images.
    "qwen3_5": {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "tie_word_embeddings": False,
        "text_config": _QWEN3_5
        | {"model_type": "qwen3_5_text", "intermediate_size": 96, "num_hidden_layers": 7},
        "vision_config": {
            "model_type": "qwen3_5_vision",
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "patch_size": 4,
            "out_hidden_size": 64,
            "num_position_embeddings": 16,
        },
        "dtype": "float32",
    },
    # A text model by itself, whose file lists its layers.
    "qwen3_5-moe": _QWEN3_5
    | {
        "architectures": ["Qwen3_5MoeForCausalLM"],
        "model_type": "qwen3_5_moe_text",
        "num_hidden_layers": 5,
        "layer_types": ["linear_attention"] * 3 + ["full_attention", "linear_attention"],
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 40,
        "num_experts": 8,
        "num_experts_per_tok": 2,
    },
    # Caps as low as these random logits are small, so that they bend.
    "gemma2": _GEMMA
    | {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "intermediate_size": 160,
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "hidden_act": "gelu_pytorch_tanh",
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 0.7,
        "rope_theta": 10000.0,
    },
    "gemma3": _GEMMA
    | {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "intermediate_size": 96,
        "num_hidden_layers": 7,
        "num_key_value_heads": 2,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "sliding_window_pattern": 3,
        "rope_theta": 50000.0,
        "rope_local_base_freq": 500.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    # The text model of a vision checkpoint, which names only what differs from the defaults.
    "gemma3-vlm": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "eos_token_id": [1, 3],
        "mm_tokens_per_image": 4,
        "text_config": {
            "model_type": "gemma3_text",
            "vocab_size": 512,
            "hidden_size": 96,
            "intermediate_size": 96,
            "num_hidden_layers": 7,
            "head_dim": 16,
            "sliding_window": 8,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "dtype": "float32",
    },
    # Heads of two sizes, the larger ones of so few keys that four shards hold copies.
    "gemma4": _GEMMA4
    | {
        "architectures": ["Gemma4ForCausalLM"],
        "model_type": "gemma4_text",
        "intermediate_size": 96,
        "num_hidden_layers": 7,
        "layer_types": [_FULL, _SLIDING, _SLIDING] * 2 + [_FULL],
        "global_head_dim": 32,
        "num_global_key_value_heads": 2,
        "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0,
        "dtype": "float32",
    },
    # The last layer is global by itself; sizes are spelled layer by layer.
    "gemma4-moe": {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "text_config": _GEMMA4
        | {
            "model_type": "gemma4_text",
            "intermediate_size": 64,
            "num_hidden_layers": 7,
            "per_layer_config": {
                str(i): {"head_dim": 32, "num_key_value_heads": 1} for i in (5, 6)
            },
            "attention_k_eq_v": True,
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 8,
            "top_k_experts": 2,
            "moe_intermediate_size": 48,
            "use_bidirectional_attention": "vision",
        },
        "vision_config": {
            "model_type": "gemma4_vision",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "patch_size": 4,
            "position_embedding_size": 8,
        },
        "audio_config": None,
        "dtype": "float32",
    },
    # Values have a matrix of their own in every layer.
    "gemma4-unified": {
        "architectures": ["Gemma4UnifiedForConditionalGeneration"],
        "model_type": "gemma4_unified",
        "text_config": _GEMMA4
        | {
            "model_type": "gemma4_unified_text",
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "layer_types": [_SLIDING, _FULL] * 2,
            "global_head_dim": 32,
            "attention_k_eq_v": False,
        },
        "vision_config": {
            "model_type": "gemma4_unified_vision",
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "mm_embed_dim": 96,
            "mm_posemb_size": 8,
            "output_proj_dims": 96,
        },
        "audio_config": {"model_type": "gemma4_unified_audio", "audio_embed_dim": 16},
        "dtype": "float32",
    },
}

# Models of which the reference has prompts with images. An image has more tokens than a local layer
# looks back, and its tokens are each pooled of four patches. Gemma 4's images differ in size.
WITH_IMAGES: dict[str, dict[str, Any]] = {
    "gemma3-images": CONFIGS["gemma3-vlm"]
    | {
        "mm_tokens_per_image": 16,
        "image_token_index": 500,
        "boi_token_index": 501,
        "eoi_token_index": 502,
        # Few layers, since many engines are made of it: two look back, and one sees all.
        "text_config": CONFIGS["gemma3-vlm"]["text_config"]
        | {"sliding_window": 12, "num_hidden_layers": 3, "sliding_window_pattern": 2},
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 4,
            "vision_use_head": False,
        },
    },
    "gemma4-images": {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "image_token_id": 500,
        "boi_token_id": 501,
        "eoi_token_id": 502,
        "text_config": _GEMMA4
        | {
            "model_type": "gemma4_text",
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "layer_types": [_SLIDING, _FULL, _FULL],
            "sliding_window": 12,
            "max_position_embeddings": 1024,
            "global_head_dim": 32,
            "num_global_key_value_heads": 2,
            "attention_k_eq_v": True,
            "hidden_size_per_layer_input": 0,
            "use_bidirectional_attention": "vision",
        },
        "vision_config": {
            "model_type": "gemma4_vision",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 12,
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "position_embedding_size": 40,
            "standardize": True,
        },
        "audio_config": None,
        "dtype": "float32",
    },
}
# What Gemma 4's image processor allows an image of that model.
MAX_SOFT_TOKENS = 20

# Models that make embeddings only. Their tensors have no prefix, as published.
EMBEDDERS: dict[str, dict[str, Any]] = {
    "embeddinggemma": _GEMMA
    | {
        "architectures": ["Gemma3TextModel"],
        "model_type": "gemma3_text",
        "use_bidirectional_attention": True,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "sliding_window_pattern": 3,
        "rope_theta": 50000.0,
        "rope_local_base_freq": 500.0,
    },
}
# Output sizes of the dense layers that follow the mean.
DENSE_SIZES = (128, 80)
