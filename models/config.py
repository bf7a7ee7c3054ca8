"""The shape of a decoder, read from a checkpoint's config.json.

`ModelConfig` is frozen and hashable, so it is a compile-time constant of every program. It knows
the fields of the dense grouped-query family (Llama, Qwen2, Qwen3, Mistral) and refuses, by name,
what that family's code does not compute. It reads no weights and no devices.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """A checkpoint's configuration that cannot be served; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched: `linear`, or Llama 3's by-wavelength form."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A dense decoder with grouped-query attention. Letters as in the shapes: V D L N K H F."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    max_position: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    tie_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_window: int | None
    dtype: str
    eos_token_ids: tuple[int, ...]


type _Fields = dict[str, Any]

_DTYPES = ("bfloat16", "float16", "float32")

# What an architecture adds to the common fields.
_ARCHITECTURES: Mapping[str, Callable[[Mapping[str, Any]], _Fields]] = {
    "LlamaForCausalLM": lambda hf: {
        "qkv_bias": bool(hf.get("attention_bias", False)),
        "output_bias": bool(hf.get("attention_bias", False)),
        "mlp_bias": bool(hf.get("mlp_bias", False)),
        "sliding_window": None,
    },
    "MistralForCausalLM": lambda hf: {"sliding_window": _window(hf)},
    "Qwen2ForCausalLM": lambda hf: {"qkv_bias": True, "sliding_window": _qwen_window(hf)},
    "Qwen3ForCausalLM": lambda hf: {
        "qkv_bias": bool(hf.get("attention_bias", False)),
        "output_bias": bool(hf.get("attention_bias", False)),
        "qk_norm": True,
        "sliding_window": _qwen_window(hf),
    },
}


def supported_architectures() -> tuple[str, ...]:
    """The names a config.json may carry under `architectures`."""
    return tuple(_ARCHITECTURES)


def read_config(checkpoint: Path) -> ModelConfig:
    """Read `config.json` (and the end tokens of `generation_config.json`) of a checkpoint folder.

    Raises ConfigError where a file is missing, is not JSON, or asks for what is not supported.
    """
    hf = _read_json(checkpoint / "config.json")
    generation = checkpoint / "generation_config.json"
    eos = _read_json(generation).get("eos_token_id") if generation.exists() else None
    return parse_config(hf | ({"eos_token_id": eos} if eos is not None else {}))


def parse_config(hf: Mapping[str, Any]) -> ModelConfig:
    """A `ModelConfig` from the fields of a Hugging Face config.json."""
    architecture = _architecture(hf)
    _refuse_unsupported(hf)
    heads = _integer(hf, "num_attention_heads")
    hidden = _integer(hf, "hidden_size")
    common: _Fields = {
        "architecture": architecture,
        "vocab_size": _integer(hf, "vocab_size"),
        "hidden_size": hidden,
        "num_layers": _integer(hf, "num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": _integer(hf, "num_key_value_heads", heads),
        "head_dim": _integer(hf, "head_dim", hidden // heads),
        "mlp_size": _integer(hf, "intermediate_size"),
        "max_position": _integer(hf, "max_position_embeddings"),
        "rms_norm_eps": _number(hf, "rms_norm_eps", 1e-6),
        "tie_embeddings": bool(hf.get("tie_word_embeddings", False)),
        "qkv_bias": False,
        "output_bias": False,
        "mlp_bias": False,
        "qk_norm": False,
        "dtype": _dtype(hf),
        "eos_token_ids": _token_ids(hf.get("eos_token_id")),
        **_rope(hf),
    }
    config = ModelConfig(**(common | _ARCHITECTURES[architecture](hf)))
    _check(config)
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: is this a checkpoint folder?") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a JSON object")
    return value


def _architecture(hf: Mapping[str, Any]) -> str:
    names = hf.get("architectures") or []
    if not isinstance(names, list):
        raise ConfigError(f"config.json: architectures must be a list, not {names!r}")
    for name in names:
        if name in _ARCHITECTURES:
            return str(name)
    known = ", ".join(_ARCHITECTURES)
    raise ConfigError(f"architecture {names or 'unnamed'} is not supported; these are: {known}")


def _refuse_unsupported(hf: Mapping[str, Any]) -> None:
    activation = hf.get("hidden_act", "silu")
    if activation != "silu":
        raise ConfigError(f"hidden_act {activation!r} is not supported; only 'silu' is")
    if hf.get("quantization_config"):
        raise ConfigError("a quantized checkpoint is not supported; publish it in bfloat16")


def _integer(hf: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = hf.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ConfigError(f"config.json: {key} must be a positive integer, not {value!r}")
    return value


def _number(hf: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = hf.get(key)
    if value is None:
        value = default
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise ConfigError(f"config.json: {key} must be a positive number, not {value!r}")
    return float(value)


def _dtype(hf: Mapping[str, Any]) -> str:
    dtype = hf.get("dtype") or hf.get("torch_dtype") or "bfloat16"
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not supported; these are: {', '.join(_DTYPES)}")
    return str(dtype)


def _token_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    token_ids = value if isinstance(value, list) else [value]
    if not all(type(token_id) is int and token_id >= 0 for token_id in token_ids):
        raise ConfigError(f"eos_token_id must be a token id or a list of them, not {value!r}")
    return tuple(token_ids)


def _rope(hf: Mapping[str, Any]) -> _Fields:
    """`rope_theta` and `rope_scaling`, from the old top-level form or the newer rope_parameters."""
    key = "rope_parameters" if hf.get("rope_parameters") else "rope_scaling"
    parameters = hf.get(key) or {}
    if not isinstance(parameters, dict):
        raise ConfigError(f"config.json: {key} must be an object, not {parameters!r}")
    rotated = parameters.get("partial_rotary_factor", 1.0)
    if rotated != 1.0:
        raise ConfigError(f"partial_rotary_factor {rotated!r} is not supported; only 1.0 is")
    return {
        "rope_theta": _number({**hf, **parameters}, "rope_theta", 10_000.0),
        "rope_scaling": _rope_scaling(parameters, hf),
    }


def _rope_scaling(parameters: Mapping[str, Any], hf: Mapping[str, Any]) -> RopeScaling | None:
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=_number(parameters, "factor"))
    if kind == "llama3":
        max_position = _integer(hf, "max_position_embeddings")
        return RopeScaling(
            kind="llama3",
            factor=_number(parameters, "factor"),
            low_freq_factor=_number(parameters, "low_freq_factor"),
            high_freq_factor=_number(parameters, "high_freq_factor"),
            original_max_position=_integer(
                parameters, "original_max_position_embeddings", max_position
            ),
        )
    raise ConfigError(f"rope type {kind!r} is not supported; default, linear and llama3 are")


def _window(hf: Mapping[str, Any]) -> int | None:
    return None if hf.get("sliding_window") is None else _integer(hf, "sliding_window")


def _qwen_window(hf: Mapping[str, Any]) -> int | None:
    """Qwen's window, which counts only where every layer uses it."""
    window = _window(hf) if hf.get("use_sliding_window") else None
    if window is None:
        return None
    num_layers, num_full = hf["num_hidden_layers"], hf.get("max_window_layers", 28)
    kinds = hf.get("layer_types") or [
        "full_attention" if layer < num_full else "sliding_attention" for layer in range(num_layers)
    ]
    if len(set(kinds)) > 1:
        raise ConfigError("sliding windows on some layers only are not supported")
    return window if kinds[0] == "sliding_attention" else None


def _check(config: ModelConfig) -> None:
    if config.num_heads % config.num_kv_heads:
        raise ConfigError(
            f"num_key_value_heads {config.num_kv_heads} does not divide "
            f"num_attention_heads {config.num_heads}"
        )
    if config.head_dim % 2:
        raise ConfigError(f"head_dim {config.head_dim} is odd; rotary embedding needs an even one")
