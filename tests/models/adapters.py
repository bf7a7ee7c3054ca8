"""Small random adapters in PEFT's layout, and the models that result when they are merged."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
_PREFIX = "base_model.model."

type Tensors = dict[str, np.ndarray]


def adapted(tensors: Tensors, modules: Iterable[str] = (*ATTENTION, *MLP)) -> list[str]:
    """The names of the modules of a checkpoint that an adapter changes."""
    ends = tuple(f".{module}.weight" for module in modules)
    return [name.removesuffix(".weight") for name in tensors if name.endswith(ends)]


def random_adapter(
    tensors: Tensors, rank: int = 4, seed: int = 0, modules: Iterable[str] = (*ATTENTION, *MLP)
) -> Tensors:
    """Tensors of an adapter that changes each product about as much as the model makes of it."""
    rng = np.random.default_rng(seed)
    found: Tensors = {}
    for module in adapted(tensors, modules):
        out_size, in_size = tensors[f"{module}.weight"].shape
        a = rng.standard_normal((rank, in_size)) / np.sqrt(in_size)
        b = rng.standard_normal((out_size, rank)) / np.sqrt(rank)
        found[f"{_PREFIX}{module}.lora_A.weight"] = a.astype(np.float32)
        found[f"{_PREFIX}{module}.lora_B.weight"] = b.astype(np.float32)
    return found


def write_adapter(folder: Path, tensors: Tensors, rank: int = 4, **fields: Any) -> Path:
    """Write an adapter's folder; `fields` are of its adapter_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in tensors})
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": modules,
        "bias": "none",
        "use_dora": False,
        "modules_to_save": None,
        "init_lora_weights": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | fields))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def merge(tensors: Tensors, adapter: Tensors, scale: float = 1.0) -> Tensors:
    """The model whose matrices are W + scale B A."""
    merged = dict(tensors)
    for name in adapter:
        if ".lora_A." in name:
            module = name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
            b = adapter[name.replace("lora_A", "lora_B")].astype(np.float64)
            change = scale * (b @ adapter[name].astype(np.float64))
            merged[f"{module}.weight"] = (tensors[f"{module}.weight"] + change).astype(np.float32)
    return merged
