"""What the text models of Gemma 4 add to the fields that all decoders have.

Global layers have sizes of their own. Older files name them by global_head_dim and
num_global_key_value_heads, newer ones by per_layer_config, which lists each layer that differs.
"""

from __future__ import annotations

import re
from typing import Any

from models.config import GlobalAttention, ModelConfigError, MoeConfig
from models.huggingface.fields import HF, count, flag, integer, optional_number
from models.huggingface.rope import rope, rope_parameters
from models.huggingface.windows import layer_windows

type Fields = dict[str, Any]
# Head size and KV heads.
type _Sizes = tuple[int, int]
type _Windows = tuple[int | None, ...]

_PERIOD = 6
_NAMES = ("head_dim", "num_key_value_heads")
_DIGITS = re.compile(r"[0-9]{1,9}")

# Configurations omit fields that equal the architecture's default.
GEMMA4_UNIFIED: Fields = {
    "vocab_size": 262_144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 262_144,
    "sliding_window": 1024,
    "eos_token_id": 1,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 1_000_000.0,
        },
    },
}
GEMMA4: Fields = GEMMA4_UNIFIED | {
    "max_position_embeddings": 131_072,
    "sliding_window": 512,
    "hidden_size_per_layer_input": 256,
}


def gemma4(hf: HF) -> Fields:
    """The fields of a dense model, or of one with experts beside the MLP of each layer."""
    _refuse_unsupported(hf)
    integer(hf, "sliding_window")
    # The last layer is global whatever a file says.
    windows = (*layer_windows(hf, lambda layer: (layer + 1) % _PERIOD != 0)[:-1], None)
    local, of_global = _sizes(hf, windows)
    return {
        "head_dim": local[0],
        "num_kv_heads": local[1],
        "global_attention": of_global,
        "layer_windows": windows,
        "local_rope": rope(hf, rope_parameters(hf, "sliding_attention")),
        "attention_scale": 1.0,
        "qk_norm": True,
        "value_norm": True,
        "post_norms": True,
        "layer_scale": True,
        "embedding_scale": integer(hf, "hidden_size") ** 0.5,
        "logit_softcap": optional_number(hf, "final_logit_softcapping"),
        "moe": _moe(hf) if flag(hf, "enable_moe_block") else None,
    }


def _refuse_unsupported(hf: HF) -> None:
    if count(hf, "hidden_size_per_layer_input"):
        raise ModelConfigError(
            "hidden_size_per_layer_input (embeddings for each layer, as in Gemma 4 E2B and E4B) is"
            " not supported; the models without them are, such as 31B, 26B-A4B and 12B"
        )
    if count(hf, "num_kv_shared_layers"):
        raise ModelConfigError(
            "num_kv_shared_layers (layers that read the keys of others) is not supported"
        )
    sees_later = hf.get("use_bidirectional_attention")
    if sees_later != "vision" and (sees_later == "all" or flag(hf, "use_bidirectional_attention")):
        raise ModelConfigError("use_bidirectional_attention is not supported for this architecture")
    if flag(hf, "attention_bias"):
        raise ModelConfigError("attention_bias is not supported for this architecture")


def _sizes(hf: HF, windows: _Windows) -> tuple[_Sizes, GlobalAttention | None]:
    """The sizes of local layers' heads, and what global layers have where they differ."""
    by_window: dict[int | None, _Sizes] = {}
    for layer, sizes in enumerate(_sizes_by_layer(hf, windows)):
        if by_window.setdefault(windows[layer], sizes) != sizes:
            raise ModelConfigError(
                f"per_layer_config gives layer {layer} other sizes than other layers of its type,"
                " which is not supported"
            )
    of_global = by_window.pop(None)
    local = next(iter(by_window.values()), of_global)
    keys_as_values = flag(hf, "attention_k_eq_v")
    if local == of_global and not keys_as_values:
        return local, None
    head_dim, num_kv_heads = of_global
    return local, GlobalAttention(
        head_dim=head_dim, num_kv_heads=num_kv_heads, keys_as_values=keys_as_values
    )


def _sizes_by_layer(hf: HF, windows: _Windows) -> list[_Sizes]:
    """Head size and KV heads of each layer, in either spelling."""
    local = integer(hf, "head_dim"), integer(hf, "num_key_value_heads")
    listed = hf.get("per_layer_config")
    if listed is None:
        has_heads = flag(hf, "attention_k_eq_v") and "num_global_key_value_heads" in hf
        kv_heads = integer(hf, "num_global_key_value_heads") if has_heads else local[1]
        of_global = integer(hf, "global_head_dim", 512), kv_heads
        return [of_global if window is None else local for window in windows]
    changes = _changes_by_layer(listed, len(windows))
    return [_with_changes(hf, changes.get(layer, {})) for layer in range(len(windows))]


def _changes_by_layer(listed: Any, num_layers: int) -> dict[int, HF]:
    """What `per_layer_config` says, by layer. transformers pads the numbers with zeros: "05"."""
    if not isinstance(listed, dict) or not all(isinstance(one, dict) for one in listed.values()):
        raise ModelConfigError("config.json: per_layer_config must be an object of objects")
    changes: dict[int, HF] = {}
    for key, change in listed.items():
        if not _DIGITS.fullmatch(str(key)) or int(key) >= num_layers:
            raise ModelConfigError(f"config.json: per_layer_config names no layer by {key!r}")
        if int(key) in changes:
            raise ModelConfigError(f"config.json: per_layer_config names layer {int(key)} twice")
        changes[int(key)] = change
    return changes


def _with_changes(hf: HF, changes: HF) -> _Sizes:
    if unknown := sorted(set(changes) - set(_NAMES)):
        raise ModelConfigError(f"per_layer_config with {unknown[0]} is not supported")
    head_dim, num_kv_heads = (integer({**hf, **changes}, name) for name in _NAMES)
    return head_dim, num_kv_heads


def _moe(hf: HF) -> MoeConfig:
    moe = MoeConfig(
        num_experts=integer(hf, "num_experts"),
        num_experts_per_token=integer(hf, "top_k_experts"),
        expert_size=integer(hf, "moe_intermediate_size"),
        renormalize=True,
        beside_mlp=True,
    )
    if moe.num_experts_per_token > moe.num_experts:
        raise ModelConfigError("config.json: top_k_experts is greater than the number of experts")
    return moe
