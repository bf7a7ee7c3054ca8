"""Measures what each quantized format costs the demo model: bits per byte on text it never saw.

    .venv/bin/python -m benchmarks.quantized

The demo model's matrices are rounded to the nearest number of each format and written as its
checkpoint. `float` is the format's own loss, `int8` is that of the matrices as they are served.
The text is this repository's documentation. Compiles in this process; starts no server.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from models.checkpoint.files import LocalFiles
from models.checkpoint.version_folder import open_version
from models.demo import ensure
from models.training.figures import bits_per_byte
from models.training.loss import training_layout

type Tensors = dict[str, np.ndarray]
type Encode = Callable[[np.ndarray], Tensors]

_GROUP = 64
_FLOAT4 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
_BLOCK = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--text", type=Path, default=Path("docs/serving.md"))
    text = parser.parse_args().text.read_text()
    source = ensure()
    layouts = {"float": training_layout(), "int8": replace(training_layout(), quantized=True)}
    whole = bits_per_byte(source, [text])
    print(f"the demo model in float32: {whole:.4f} bits per byte of {len(text.encode())} bytes")
    print("| format | float | int8 |\n|---|---|---|")
    for name, (scheme, encode) in _FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            write(source, Path(folder), scheme, encode)
            checkpoint = open_version(LocalFiles(Path(folder)), Path(folder) / "copy").checkpoint()
            found = [
                bits_per_byte(Path(folder), [text], checkpoint, layout)
                for layout in layouts.values()
            ]
        print(f"| {name} | " + " | ".join(f"{bits / whole - 1:+.2%}" for bits in found) + " |")


def write(source: Path, folder: Path, scheme: dict[str, Any], encode: Encode) -> None:
    """The checkpoint in `source` with its layers' matrices in another format."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": scheme}))
    for file in sorted(source.glob("*.safetensors")):
        tensors: Tensors = {}
        for name, value in load_file(file).items():
            if not name.endswith("_proj.weight"):
                tensors[name] = value
                continue
            parts = encode(value.astype(np.float32))
            tensors |= {
                name.removesuffix("weight") + suffix: part for suffix, part in parts.items()
            }
        save_file(
            {name: np.ascontiguousarray(part) for name, part in tensors.items()}, folder / file.name
        )


def _groups(w: np.ndarray, size: int) -> np.ndarray:
    return w.reshape(len(w), -1, size)


def _int8_rows(w: np.ndarray) -> Tensors:
    scale = np.abs(w).max(1, keepdims=True) / 127
    return {"weight": np.rint(w / scale).astype(np.int8), "weight_scale": scale}


def _fp8_rows(w: np.ndarray) -> Tensors:
    scale = np.abs(w).max(1, keepdims=True) / 448
    return {"weight": (w / scale).astype(ml_dtypes.float8_e4m3fn), "weight_scale": scale}


def _fp8_blocks(w: np.ndarray) -> Tensors:
    """The sizes of the demo model are whole multiples of a block."""
    tiles = w.reshape(len(w) // _BLOCK, _BLOCK, -1, _BLOCK)
    scale = np.abs(tiles).max((1, 3), keepdims=True) / 448
    q = (tiles / scale).astype(ml_dtypes.float8_e4m3fn).reshape(w.shape)
    return {"weight": q, "weight_scale_inv": scale[:, 0, :, 0]}


def _packed_int4(w: np.ndarray) -> Tensors:
    groups = _groups(w, _GROUP)
    scale = np.abs(groups).max(2) / 7
    q = np.clip(np.rint(groups / scale[..., None]), -8, 7) + 8
    return {"weight_packed": _words(q.reshape(w.shape)), "weight_scale": scale}


def _gptq(w: np.ndarray) -> Tensors:
    """With a zero point: the smallest of a group is 0, the largest is 15."""
    groups = _groups(w, _GROUP)
    low, high = (np.minimum(groups.min(2), 0), np.maximum(groups.max(2), 0))
    scale = (high - low) / 15
    zero = np.rint(-low / scale)
    q = np.clip(np.rint(groups / scale[..., None]) + zero[..., None], 0, 15)
    return {
        "qweight": _words(q.reshape(w.shape)).T,
        "qzeros": _words((zero.T - 1) % 16),
        "scales": scale.T.astype(np.float16),
    }


def _mxfp4(w: np.ndarray) -> Tensors:
    groups = _groups(w, 32)
    exponent = np.floor(np.log2(np.maximum(np.abs(groups).max(2), 2.0**-100))) - 2
    return {
        "weight_packed": _float4(groups / np.exp2(exponent)[..., None], w.shape),
        "weight_scale": (exponent + 127).astype(np.uint8),
    }


def _nvfp4(w: np.ndarray) -> Tensors:
    groups = _groups(w, 16)
    whole = np.float32(448 * 6) / np.abs(w).max()
    scale = (np.abs(groups).max(2) / 6 * whole).astype(ml_dtypes.float8_e4m3fn)
    spread = np.maximum(scale.astype(np.float32), 2.0**-9)[..., None] / whole
    return {
        "weight_packed": _float4(groups / spread, w.shape),
        "weight_scale": scale,
        "weight_global_scale": whole.reshape(1),
    }


def _words(q: np.ndarray) -> np.ndarray:
    """Eight integers of four bits in each word, along the last axis."""
    fields = q.astype(np.uint32).reshape(len(q), -1, 8) << np.arange(0, 32, 4, dtype=np.uint32)
    return np.bitwise_or.reduce(fields, axis=2).view(np.int32)


def _float4(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    magnitude = np.abs(values.reshape(shape))[..., None]
    codes = np.abs(magnitude - _FLOAT4).argmin(-1).astype(np.uint8)
    codes |= (values.reshape(shape) < 0).astype(np.uint8) << 3
    return codes[:, ::2] | codes[:, 1::2] << 4


def _compressed(**weights: Any) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "config_groups": groups}


_FORMATS: dict[str, tuple[dict[str, Any], Encode]] = {
    "int8, rows": (_compressed(num_bits=8), _int8_rows),
    "fp8, rows": (_compressed(num_bits=8), _fp8_rows),
    f"fp8, blocks of {_BLOCK}": (
        {"quant_method": "fp8", "weight_block_size": [_BLOCK, _BLOCK]},
        _fp8_blocks,
    ),
    f"int4 (W4A16), groups of {_GROUP}": (_compressed(num_bits=4), _packed_int4),
    f"GPTQ's layout, int4, groups of {_GROUP}": ({"quant_method": "gptq", "bits": 4}, _gptq),
    "NVFP4": (_compressed(num_bits=4), _nvfp4),
    "MXFP4": (_compressed(num_bits=4), _mxfp4),
}

if __name__ == "__main__":
    main()
