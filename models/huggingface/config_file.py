"""Reads a Hugging Face config.json into a `ModelConfig`, or refuses the unsupported field by name.

Some fields have two spellings, such as rope_scaling and the newer rope_parameters, or torch_dtype
and dtype; both are read. A setting that the decoder does not compute is an error, never ignored.
Reads no weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from models.checkpoint.end_tokens import tokenizer_end_ids
from models.checkpoint.json_files import JsonFileError, read_object
from models.checkpoint.quantization_config import with_quantization
from models.checkpoint.sampling_defaults import GENERATION_CONFIG, sampling_defaults
from models.config import ModelConfig, ModelConfigError
from models.headless import has_head, is_headless, says_tied, with_head
from models.huggingface.families import (
    ARCHITECTURES,
    DEFAULTS,
    PARTLY_ROTATED,
    TEXT_MODELS,
    Fields,
)
from models.huggingface.fields import HF, flag, integer, number, word
from models.huggingface.rope import longest_context, rope, rope_parameters
from models.huggingface.vision import (
    PREPROCESSOR,
    PROCESSOR,
    has_tower,
    parse_vision,
    with_preprocessor,
)
from models.quantized.scheme import QuantizationError, read_scheme
from models.tensor_names import stored_names

_DTYPES = ("bfloat16", "float16", "float32")
# By the names of transformers, of which some mean the same.
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


def supported_architectures() -> tuple[str, ...]:
    """The supported names under `architectures` in a config.json."""
    return tuple(ARCHITECTURES)


def read_config(checkpoint: Path) -> ModelConfig:
    """Read `config.json` of a checkpoint folder, and the end tokens of all files that name some.

    Raises ModelConfigError if a file is missing, is not JSON, or has an unsupported setting.
    """
    hf = _with_quantization(checkpoint, _read_json(checkpoint / "config.json"))
    _refuse_code(hf)
    stored = stored_names(checkpoint)
    # Where nothing computes with the embedding as a head, no program must be another for it.
    if is_headless(checkpoint) or (says_tied(hf) is None and stored and not has_head(stored)):
        hf = hf | {"tie_word_embeddings": True}
    nested = _read_optional(checkpoint, PROCESSOR).get("image_processor")
    preprocessor = nested or _read_optional(checkpoint, PREPROCESSOR)
    config = with_preprocessor(parse_config(hf), preprocessor)
    if stored and not has_tower(stored):
        config = replace(config, vision=None)
    return replace(config, eos_token_ids=_end_token_ids(checkpoint, config))


def _with_quantization(checkpoint: Path, hf: HF) -> dict[str, Any]:
    try:
        return with_quantization(checkpoint, hf)
    except JsonFileError as error:
        raise ModelConfigError(str(error)) from error


def _end_token_ids(checkpoint: Path, config: ModelConfig) -> tuple[int, ...]:
    """The union of what the files say: each of the tokens may end an answer."""
    eos = _token_ids(
        _read_optional(checkpoint, GENERATION_CONFIG).get("eos_token_id"),
        GENERATION_CONFIG,
        config.vocab_size,
    )
    try:
        # Whoever reads these later is not asked what is wrong with the checkpoint.
        sampling_defaults(checkpoint)
        named = tokenizer_end_ids(checkpoint)
    except JsonFileError as error:
        raise ModelConfigError(str(error)) from error
    known = [token_id for token_id in named if token_id < config.vocab_size]
    return tuple(dict.fromkeys((*eos, *config.eos_token_ids, *known)))


def _refuse_code(hf: HF) -> None:
    """The weights may need the checkpoint's own code, which no server runs."""
    auto_map = hf.get("auto_map")
    names = auto_map if isinstance(auto_map, dict) else {}
    if code := [name for name in names if name.startswith(("AutoModel", "AutoConfig"))]:
        raise ModelConfigError(
            f"config.json: auto_map names code of the checkpoint for {', '.join(code)}; the server"
            " runs no code of a checkpoint (trust_remote_code). Remove auto_map if the checkpoint"
            " works without that code"
        )


def parse_config(hf: HF) -> ModelConfig:
    """A `ModelConfig` from the fields of a Hugging Face config.json."""
    architecture = _architecture(hf)
    stored_bits, text = _stored_bits(hf), _text_fields(architecture, hf)
    _refuse_unsupported(text)
    # What is wrong with the text model is said first: a model whose text is not served has no use.
    common = _common(architecture, text) | ARCHITECTURES[architecture](text)
    vision = parse_vision(architecture, hf)
    config = ModelConfig(**(common | {"stored_bits": stored_bits, "vision": vision}))
    _check(config)
    return config


def _common(architecture: str, hf: HF) -> Fields:
    heads, vocab_size = integer(hf, "num_attention_heads"), integer(hf, "vocab_size")
    hidden = integer(hf, "hidden_size")
    head_dim = integer(hf, "head_dim", max(1, hidden // heads))
    num_layers = integer(hf, "num_hidden_layers")
    parameters = rope_parameters(hf, "full_attention")
    full = rope(hf, parameters, may_be_partial=architecture in PARTLY_ROTATED)
    return {
        "architecture": architecture,
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "num_layers": num_layers,
        "num_heads": heads,
        "num_kv_heads": integer(hf, "num_key_value_heads", heads),
        "head_dim": head_dim,
        "mlp_size": integer(hf, "intermediate_size"),
        "max_position": longest_context(hf, full),
        "rms_norm_eps": number(hf, "rms_norm_eps", 1e-6),
        "tie_embeddings": flag(hf, "tie_word_embeddings"),
        "activation": _activation(hf),
        "dtype": _dtype(hf),
        "eos_token_ids": _token_ids(hf.get("eos_token_id"), "config.json", vocab_size),
        "rope": full,
        "local_rope": full,
        "attention_scale": head_dim**-0.5,
        "layer_windows": (None,) * num_layers,
    }


# Fields for which null differs from absence.
_NULLABLE = ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window")
# The text models of one architecture that has several, where they differ in what is left out.
_OF_TYPE = {"ministral3": "Ministral3ForCausalLM"}
# Fields that a multimodal configuration has once for all its parts.
_OUTER_FIELDS = ("eos_token_id", "dtype", "torch_dtype")


def _text_fields(architecture: str, hf: HF) -> Fields:
    """The decoder's fields; for a multimodal checkpoint, the fields of its text model."""
    fields = {k: v for k, v in hf.items() if v is not None or k in _NULLABLE}
    if architecture in TEXT_MODELS:
        text = fields.get("text_config")
        if not isinstance(text, dict):
            raise ModelConfigError("config.json: text_config must be an object")
        outer = {key: fields[key] for key in _OUTER_FIELDS if key in fields}
        tied = {} if says_tied(fields) is None else {"tie_word_embeddings": says_tied(fields)}
        fields = {k: v for k, v in text.items() if v is not None or k in _NULLABLE} | outer | tied
        architecture = _OF_TYPE.get(str(text.get("model_type")), TEXT_MODELS[architecture])
    return DEFAULTS.get(architecture, {}) | fields


def _read_optional(checkpoint: Path, name: str) -> dict[str, Any]:
    path = checkpoint / name
    return _read_json(path) if path.exists() else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except FileNotFoundError:
        raise ModelConfigError(f"{path} is missing: is this a checkpoint folder?") from None
    except JsonFileError as error:
        raise ModelConfigError(str(error)) from error


def _architecture(hf: HF) -> str:
    names = hf.get("architectures") or []
    if not isinstance(names, list):
        raise ModelConfigError(f"config.json: architectures must be a list, not {names!r}")
    for name in map(with_head, names):
        if name in ARCHITECTURES:
            return str(name)
    known = ", ".join(ARCHITECTURES)
    raise ModelConfigError(
        f"architecture {names or 'unnamed'} is not supported; these are: {known}"
    )


def _refuse_unsupported(hf: HF) -> None:
    if not flag(hf, "is_causal", True):
        raise ModelConfigError("is_causal false (attention to later tokens) is not supported")


def _stored_bits(hf: HF) -> int | None:
    try:
        scheme = read_scheme(hf)
    except QuantizationError as error:
        raise ModelConfigError(
            f"this quantized checkpoint cannot be served: {error}. Publish it in bfloat16 and set"
            " weight_dtype, or quantize it in a supported format"
        ) from error
    if scheme is None:
        # The conversion of a quantized GGUF file widens it, and says how wide it was.
        return None if hf.get("gguf_bits") is None else integer(hf, "gguf_bits")
    return scheme.bits


def _activation(hf: HF) -> str:
    name = word(hf, ("hidden_activation", "hidden_act"), "silu")
    if name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ModelConfigError(f"hidden_act {name!r} is not supported; these are: {known}")
    return _ACTIVATIONS[name]


def _dtype(hf: HF) -> str:
    dtype = word(hf, ("dtype", "torch_dtype"), "bfloat16")
    name = dtype.removeprefix("torch.")
    if name not in _DTYPES:
        raise ModelConfigError(f"dtype {dtype!r} is not supported; these are: {', '.join(_DTYPES)}")
    return name


def _token_ids(value: Any, file: str, vocab_size: int) -> tuple[int, ...]:
    if value is None:
        return ()
    token_ids = value if isinstance(value, list) else [value]
    if not all(type(token_id) is int and token_id >= 0 for token_id in token_ids):
        raise ModelConfigError(
            f"{file}: eos_token_id must be a token id or a list of them, not {value!r}"
        )
    if beyond := [token_id for token_id in token_ids if token_id >= vocab_size]:
        raise ModelConfigError(
            f"{file}: eos_token_id {beyond[0]} is no token of the model, whose vocab_size is"
            f" {vocab_size}"
        )
    return tuple(token_ids)


def _check(config: ModelConfig) -> None:
    for of_kind in map(config.of_kind, config.windows):
        if of_kind.num_heads % of_kind.num_kv_heads:
            raise ModelConfigError(
                f"num_key_value_heads {of_kind.num_kv_heads} does not divide "
                f"num_attention_heads {of_kind.num_heads}"
            )
        if of_kind.head_dim % 2:
            raise ModelConfigError(
                f"head_dim {of_kind.head_dim} is odd; rotary embedding needs an even one"
            )
