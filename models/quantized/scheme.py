"""Reads a checkpoint's `quantization_config`: how matrices are stored, or why they are not read.

Which matrices are quantized is read off the tensors, not off the lists of names in the
configuration: where a tensor of floats is stored, it is the weight. Scales for activations are not
used, since activations stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.quantized.columns import Awq, Gptq
from models.quantized.float4 import PackedFloat4
from models.quantized.joined_float4 import JoinedFloat4
from models.quantized.packed import PackedRows
from models.quantized.scaled import ScaledBytes
from models.quantized.stored import Storage


class QuantizationError(ValueError):
    """A `quantization_config` whose matrices cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How matrices are stored, in the order of trying, and the bits that a weight takes."""

    name: str
    bits: int
    storages: tuple[Storage, ...]


def read_scheme(config: Mapping[str, Any]) -> Scheme | None:
    """The scheme of a config.json; None if it names none. Raises QuantizationError."""
    named = [config.get(key) for key in ("quantization_config", "compression_config")]
    for found in named:
        if found is not None and not isinstance(found, dict):
            raise QuantizationError(f"quantization_config must be an object, not {found!r}")
    found = named[0] or named[1]
    if not found:
        return None
    method = found.get("quant_method")
    read = _METHODS.get(method) if isinstance(method, str) else None
    if read is None:
        raise QuantizationError(
            f"quant_method {method!r} is not supported; these are: {', '.join(_METHODS)}"
        )
    return read(found)


def _compressed_tensors(found: Mapping[str, Any]) -> Scheme:
    sparsity = found.get("sparsity_config") or {}
    if not isinstance(sparsity, dict) or sparsity.get("format", "dense") != "dense":
        raise QuantizationError("sparsity_config is not supported: save the weights dense")
    transforms = found.get("transform_config")
    if transforms and (not isinstance(transforms, dict) or transforms.get("config_groups", True)):
        raise QuantizationError(
            "transform_config is not supported: its rotations would have to be computed at each"
            " step"
        )
    weights = _weights_of_groups(found)
    blocks = [block for each in weights if (block := _block(each.get("block_structure")))]
    storages = (PackedRows(), PackedFloat4(), ScaledBytes(block=blocks[0] if blocks else None))
    bits = [_bits(each, "num_bits", (4, 8)) for each in weights]
    return Scheme("compressed-tensors", max(bits), storages)


def _weights_of_groups(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What each group says of its weights."""
    groups = found.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise QuantizationError("config_groups must name at least one group of matrices")
    said = [each.get("weights") if isinstance(each, dict) else each for each in groups.values()]
    # A group may be of activations or of keys and values alone.
    weights = [each for each in said if each is not None]
    if not weights or not all(isinstance(each, dict) for each in weights):
        raise QuantizationError(f"config_groups: {', '.join(groups)} say nothing of their weights")
    return weights


# The names of DeepSeek and Qwen, of AutoFP8, and of two more that transformers knows.
_FP8_SCALES = ("weight_scale_inv", "weight_scale", "scale", "qscale_weight")
# Where a file leaves it out; a null is no block.
_FP8_BLOCK = (128, 128)


def _fp8(found: Mapping[str, Any]) -> Scheme:
    if found.get("fmt", "e4m3") != "e4m3":
        raise QuantizationError(f"fmt {found['fmt']!r} is not supported; only e4m3 is")
    block = _block(found.get("weight_block_size", _FP8_BLOCK))
    return Scheme("fp8", 8, (ScaledBytes(_FP8_SCALES, block),))


def _awq(found: Mapping[str, Any]) -> Scheme:
    if found.get("backend") == "llm-awq":
        raise QuantizationError("AWQ's backend llm-awq is not supported: it packs otherwise")
    if (version := _layout(found, "version", "gemm")) != "gemm":
        raise QuantizationError(f"AWQ's version {version!r} is not supported; only gemm is")
    return Scheme("awq", _bits(found, "bits", (4,)), (Awq(),))


def _gptq(found: Mapping[str, Any]) -> Scheme:
    layout = _layout(found, "checkpoint_format", "gptq")
    if layout not in ("gptq", "gptq_v2"):
        raise QuantizationError(
            f"checkpoint_format {layout!r} is not supported; gptq and gptq_v2 are"
        )
    bits = _bits(found, "bits", (2, 4, 8))
    return Scheme("gptq", bits, (Gptq(bits, 1 if layout == "gptq" else 0),))


_MODELOPT_BLOCK = (128, 128)


def _modelopt(found: Mapping[str, Any]) -> Scheme:
    algorithm = found.get("quant_algo")
    if algorithm in ("FP8", "FP8_PER_CHANNEL_PER_TOKEN"):
        return Scheme("modelopt FP8", 8, (ScaledBytes(),))
    if algorithm == "FP8_PB_WO":
        return Scheme("modelopt FP8", 8, (ScaledBytes(block=_MODELOPT_BLOCK),))
    if algorithm == "NVFP4":
        return Scheme("modelopt NVFP4", 4, (PackedFloat4(values="weight"), ScaledBytes()))
    raise QuantizationError(
        f"quant_algo {algorithm!r} is not supported; FP8, FP8_PER_CHANNEL_PER_TOKEN, FP8_PB_WO and"
        " NVFP4 are"
    )


_METHODS: Mapping[str, Callable[[Mapping[str, Any]], Scheme]] = {
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
    "fbgemm_fp8": lambda found: Scheme("fbgemm_fp8", 8, (ScaledBytes(),)),
    "awq": _awq,
    "gptq": _gptq,
    "modelopt": _modelopt,
    "mxfp4": lambda found: Scheme("mxfp4", 4, (JoinedFloat4(),)),
}


def _layout(found: Mapping[str, Any], key: str, default: str) -> str:
    """How words are packed, by the tool's own key or, as transformers writes it, by `format`."""
    named = found.get(key) or found.get("format") or default
    return str(named).lower()


def _bits(found: Mapping[str, Any], key: str, known: tuple[int, ...]) -> int:
    bits = found.get(key)
    if bits not in known or not isinstance(bits, int):
        raise QuantizationError(
            f"{key} {bits!r} is not supported; {' and '.join(map(str, known))} can be read"
        )
    return bits


def _block(value: Any) -> tuple[int, int] | None:
    """The part of a matrix under one scale; None where scales are no blocks'."""
    if value is None:
        return None
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if not is_pair or not all(type(size) is int and size > 0 for size in value):
        raise QuantizationError(f"a block of weights must be two sizes, not {value!r}")
    return value[0], value[1]
