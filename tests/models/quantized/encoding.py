"""Writes random matrices in every quantized format, next to the floats that they stand for.

Written from the formats' descriptions, number by number where the reader works on arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

type Tensors = dict[str, np.ndarray]
# The tensors of a matrix by suffix, and what it is as float32 [out, in].
type Encoded = tuple[Tensors, np.ndarray]

GROUP = 32
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def pack(integers: np.ndarray, bits: int) -> np.ndarray:
    """Words of int32 along the last axis, each integer at the next higher bits."""
    each = 32 // bits
    padded = np.pad(integers, ((0, 0), (0, -integers.shape[1] % each))).astype(np.uint64)
    words = np.zeros((len(padded), padded.shape[1] // each), np.uint64)
    for i in range(padded.shape[1]):
        words[:, i // each] |= padded[:, i] << np.uint64(bits * (i % each))
    return words.astype(np.uint32).view(np.int32)


def _scales(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(0.002, 0.02, shape).astype(np.float32)


def int8_rows(rng: np.random.Generator, out: int, size: int) -> Encoded:
    q = rng.integers(-127, 128, (out, size), np.int8)
    scale = _scales(rng, (out, 1)).astype(ml_dtypes.bfloat16)
    return {"weight": q, "weight_scale": scale}, q * scale.astype(np.float32)


def int8_groups_with_zero_points(rng: np.random.Generator, out: int, size: int) -> Encoded:
    q = rng.integers(-127, 128, (out, size), np.int8)
    scale, zero = _scales(rng, (out, size // GROUP)), rng.integers(-9, 9, (out, size // GROUP))
    spread = [np.repeat(each, GROUP, 1) for each in (scale, zero.astype(np.float32))]
    tensors = {"weight": q, "weight_scale": scale, "weight_zero_point": zero.astype(np.int8)}
    return tensors, (q - spread[1]) * spread[0]


def _float8(rng: np.random.Generator, out: int, size: int) -> np.ndarray:
    return rng.normal(size=(out, size)).astype(ml_dtypes.float8_e4m3fn)


def fp8_tensor(rng: np.random.Generator, out: int, size: int) -> Encoded:
    q, scale = _float8(rng, out, size), _scales(rng, (1,))
    return {"weight": q, "weight_scale": scale, "input_scale": scale}, q.astype(np.float32) * scale


def fp8_rows(rng: np.random.Generator, out: int, size: int) -> Encoded:
    q, scale = _float8(rng, out, size), _scales(rng, (out, 1))
    return {"weight": q, "weight_scale": scale}, q.astype(np.float32) * scale


def _fp8_blocks(rng: np.random.Generator, out: int, size: int, scale_name: str) -> Encoded:
    q, scale = _float8(rng, out, size), _scales(rng, (-(-out // 48), -(-size // 40)))
    expected = np.array(
        [[float(q[i, j]) * scale[i // 48, j // 40] for j in range(size)] for i in range(out)],
        np.float32,
    )
    return {"weight": q, scale_name: scale}, expected


def compressed_fp8_blocks(rng: np.random.Generator, out: int, size: int) -> Encoded:
    return _fp8_blocks(rng, out, size, "weight_scale")


def fp8_blocks(rng: np.random.Generator, out: int, size: int) -> Encoded:
    return _fp8_blocks(rng, out, size, "weight_scale_inv")


def autofp8(rng: np.random.Generator, out: int, size: int) -> Encoded:
    q, scale = _float8(rng, out, size), _scales(rng, ())
    return {"weight": q, "weight_scale": scale, "input_scale": scale}, q.astype(np.float32) * scale


def modelopt_fp8_blocks(rng: np.random.Generator, out: int, size: int) -> Encoded:
    """Scales of 128 x 128, with an axis of one after each axis of blocks."""
    q, scale = _float8(rng, out, size), _scales(rng, (-(-out // 128), 1, -(-size // 128), 1))
    spread = np.repeat(np.repeat(scale[:, 0, :, 0], 128, 0), 128, 1)[:out, :size]
    return {"weight": q, "weight_scale": scale}, q.astype(np.float32) * spread


def fp8_one_scale(rng: np.random.Generator, out: int, size: int) -> Encoded:
    q, scale = _float8(rng, out, size), _scales(rng, ())
    tensors = {"weight": q, "weight_scale_inv": scale, "activation_scale": scale}
    return tensors, q.astype(np.float32) * scale


def _packed(rng: np.random.Generator, out: int, size: int, bits: int, group: int) -> Encoded:
    q, scale = rng.integers(0, 1 << bits, (out, size)), _scales(rng, (out, size // group))
    half = 1 << (bits - 1)
    tensors = {
        "weight_packed": pack(q, bits),
        "weight_scale": scale.astype(ml_dtypes.bfloat16),
        "weight_shape": np.array([out, size]),
    }
    spread = np.repeat(scale.astype(ml_dtypes.bfloat16).astype(np.float32), group, 1)
    return tensors, (q - np.float32(half)) * spread


def packed_int4(rng: np.random.Generator, out: int, size: int) -> Encoded:
    return _packed(rng, out, size, 4, GROUP)


def packed_int8_rows(rng: np.random.Generator, out: int, size: int) -> Encoded:
    return _packed(rng, out, size, 8, size)


def packed_int4_with_zero_points(rng: np.random.Generator, out: int, size: int) -> Encoded:
    """Zero points packed along the outputs, and inputs whose groups are in no order."""
    q, groups = rng.integers(0, 16, (out, size)), size // GROUP
    zero, scale = rng.integers(0, 16, (out, groups)), _scales(rng, (out, groups))
    group_of = rng.permutation(np.arange(size) // GROUP)
    tensors = {
        "weight_packed": pack(q, 4),
        "weight_scale": scale,
        "weight_zero_point": np.ascontiguousarray(pack(zero.T, 4).T),
        "weight_g_idx": group_of.astype(np.int32),
    }
    return tensors, ((q - zero[:, group_of]) * scale[:, group_of]).astype(np.float32)


def _float4(rng: np.random.Generator, out: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of two codes each, the first in the low half; and the values."""
    codes = rng.integers(0, 16, (out, size), np.uint8)
    values = np.array([(-1 if c & 8 else 1) * E2M1[c & 7] for c in codes.flat], np.float32)
    return codes[:, ::2] | codes[:, 1::2] << 4, values.reshape(out, size)


def nvfp4(rng: np.random.Generator, out: int, size: int) -> Encoded:
    packed, values = _float4(rng, out, size)
    scale = rng.uniform(1, 400, (out, size // 16)).astype(ml_dtypes.float8_e4m3fn)
    whole = np.array([2688.0], np.float32)
    tensors = {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": whole}
    return tensors, values * np.repeat(scale.astype(np.float32) / whole, 16, 1)


def modelopt_nvfp4(rng: np.random.Generator, out: int, size: int) -> Encoded:
    packed, values = _float4(rng, out, size)
    scale = rng.uniform(1, 400, (out, size // 16)).astype(ml_dtypes.float8_e4m3fn)
    whole = np.float32(0.0004)
    tensors = {"weight": packed, "weight_scale": scale, "weight_scale_2": np.array(whole)}
    return tensors, values * np.repeat(scale.astype(np.float32) * whole, 16, 1)


def mxfp4(rng: np.random.Generator, out: int, size: int) -> Encoded:
    packed, values = _float4(rng, out, size)
    exponent = rng.integers(115, 125, (out, size // 32), np.uint8)
    scale = np.exp2(exponent.astype(np.float32) - 127)
    return {"weight_packed": packed, "weight_scale": exponent}, values * np.repeat(scale, 32, 1)


def mxfp8(rng: np.random.Generator, out: int, size: int) -> Encoded:
    q, exponent = _float8(rng, out, size), rng.integers(115, 125, (out, size // 32), np.uint8)
    scale = np.exp2(exponent.astype(np.float32) - 127)
    return {"weight": q, "weight_scale": exponent}, q.astype(np.float32) * np.repeat(scale, 32, 1)


def awq(rng: np.random.Generator, out: int, size: int) -> Encoded:
    q, groups = rng.integers(0, 16, (size, out)), size // GROUP
    zero, scale = rng.integers(0, 16, (groups, out)), _scales(rng, (groups, out))
    scale = scale.astype(np.float16)

    def packed(integers: np.ndarray) -> np.ndarray:
        order = np.arange(out).reshape(-1, 8)[:, AWQ_ORDER].reshape(-1)
        return pack(integers[:, order], 4)

    group_of = np.arange(size) // GROUP
    expected = (q - zero[group_of]) * scale[group_of].astype(np.float32)
    tensors = {"qweight": packed(q), "qzeros": packed(zero), "scales": scale}
    return tensors, expected.T.astype(np.float32)


def _gptq(rng: np.random.Generator, out: int, size: int, bits: int, offset: int) -> Encoded:
    """Groups by importance: the inputs of one are anywhere."""
    q, groups = rng.integers(0, 1 << bits, (size, out)), size // GROUP
    zero, scale = rng.integers(0, 1 << bits, (groups, out)), _scales(rng, (groups, out))
    group_of = rng.permutation(np.arange(size) // GROUP)
    tensors = {
        "qweight": np.ascontiguousarray(pack(q.T, bits).T),
        "qzeros": pack((zero - offset) % (1 << bits), bits),
        "scales": scale,
        "g_idx": group_of.astype(np.int32),
    }
    return tensors, ((q - zero[group_of]) * scale[group_of]).T.astype(np.float32)


def gptq_int4(rng: np.random.Generator, out: int, size: int) -> Encoded:
    return _gptq(rng, out, size, 4, 1)


def gptq_int8(rng: np.random.Generator, out: int, size: int) -> Encoded:
    return _gptq(rng, out, size, 8, 1)


def gptq_v2(rng: np.random.Generator, out: int, size: int) -> Encoded:
    return _gptq(rng, out, size, 4, 0)


def _compressed(**weights: Any) -> dict[str, Any]:
    """A `quantization_config` as llm-compressor writes it, with what the reader must pass over."""
    return {
        "quant_method": "compressed-tensors",
        "format": "named in each test's file",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": {"num_bits": 8, "dynamic": True, "strategy": "token"},
            }
        },
    }


type Encoder = Callable[[np.random.Generator, int, int], Encoded]
# By name: the `quantization_config`, and who writes a matrix.
FORMATS: dict[str, tuple[dict[str, Any], Encoder]] = {
    "compressed int8, rows": (_compressed(num_bits=8, type="int", strategy="channel"), int8_rows),
    "compressed int8, groups": (
        _compressed(num_bits=8, type="int", strategy="group", symmetric=False),
        int8_groups_with_zero_points,
    ),
    "compressed fp8, tensor": (_compressed(num_bits=8, type="float"), fp8_tensor),
    "compressed fp8, rows": (_compressed(num_bits=8, type="float", strategy="channel"), fp8_rows),
    "compressed fp8, blocks": (
        _compressed(num_bits=8, type="float", strategy="block", block_structure=[48, 40]),
        compressed_fp8_blocks,
    ),
    "compressed w4a16": (_compressed(num_bits=4, type="int", group_size=GROUP), packed_int4),
    "compressed int8, frozen": (
        _compressed(num_bits=8, type="int", strategy="channel") | {"quantization_status": "frozen"},
        int8_rows,
    ),
    "compressed w8a16": (_compressed(num_bits=8, type="int"), packed_int8_rows),
    "compressed w4a16, zero points": (
        _compressed(num_bits=4, type="int", symmetric=False, actorder="group"),
        packed_int4_with_zero_points,
    ),
    "compressed nvfp4": (_compressed(num_bits=4, type="float", group_size=16), nvfp4),
    "compressed mxfp4": (_compressed(num_bits=4, type="float", group_size=32), mxfp4),
    "compressed mxfp8": (_compressed(num_bits=8, type="float", group_size=32), mxfp8),
    "fp8, blocks": (
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [48, 40]},
        fp8_blocks,
    ),
    "fp8, one scale": (
        {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None},
        fp8_one_scale,
    ),
    "autofp8": (
        {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]},
        autofp8,
    ),
    "fbgemm": ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, fp8_rows),
    "modelopt fp8, rows": (
        {"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
        fp8_rows,
    ),
    "modelopt fp8, blocks": (
        {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"},
        modelopt_fp8_blocks,
    ),
    "modelopt fp8": ({"quant_method": "modelopt", "quant_algo": "FP8"}, fp8_tensor),
    "modelopt nvfp4": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, modelopt_nvfp4),
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True},
        awq,
    ),
    "gptq": ({"quant_method": "gptq", "bits": 4, "desc_act": True}, gptq_int4),
    "gptq int8": ({"quant_method": "gptq", "bits": 8}, gptq_int8),
    "gptq v2": ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}, gptq_v2),
}
