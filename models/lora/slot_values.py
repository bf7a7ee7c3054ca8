"""Reads one adapter into the values of one slot, in the host's memory.

Ranks are padded with zeros to the slot's rank, and the scale is multiplied into B. Where shards
outnumber KV heads, B of keys and values has a copy per shard, as the base's matrices. Knows no
devices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from models.checkpoint.checkpoint import Checkpoint, CheckpointError
from models.checkpoint.files import Files
from models.checkpoint.version_folder import open_version
from models.config import ModelConfig
from models.decoder.adapters import AdapterArrays, of_layers
from models.decoder.layout import DecoderLayout
from models.lora.adapter_config import (
    CONFIG_NAME,
    AdapterConfig,
    AdapterError,
    read_adapter_config,
)
from models.lora.adapter_tensors import WEIGHTS_NAME, Matrix, Pair, Pairs, find_pairs

# One of each of the layout's stacks: stacked layers have a leading axis of layers.
type SlotValues = tuple[AdapterArrays, ...]

# The place of each matrix: its array of B, its array of A, and its number among the matrices there.
_PLACES: dict[Matrix, tuple[str, str, int]] = {
    "q": ("q_b", "qkv_a", 0),
    "k": ("k_b", "qkv_a", 1),
    "v": ("v_b", "qkv_a", 2),
    "o": ("output_b", "output_a", 0),
    "gate": ("gate_b", "gate_up_a", 0),
    "up": ("up_b", "gate_up_a", 1),
    "down": ("down_b", "down_a", 0),
}


class _AdapterFiles:
    """The files of an adapter's folder, without what a training leaves there."""

    def __init__(self, files: Files) -> None:
        self._files = files

    @property
    def place(self) -> str:
        return self._files.place

    def names(self) -> list[str]:
        known = (CONFIG_NAME, WEIGHTS_NAME, "antipode.json")
        return [name for name in self._files.names() if name in known]

    def size(self, name: str) -> int:
        return self._files.size(name)

    def read(self, name: str, offset: int, length: int) -> memoryview:
        return self._files.read(name, offset, length)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in the host's memory. `is_published`: every byte matched its checksum."""

    values: SlotValues
    rank: int
    num_bytes: int
    is_published: bool


def read_adapter(files: Files, copy: Path, config: ModelConfig, layout: DecoderLayout) -> Adapter:
    """Read an adapter's folder; its small files go into `copy`.

    Each file must match its SHA-256 where the folder has an antipode.json. Raises AdapterError for
    an adapter that this model cannot have, CheckpointError for files that cannot be read.
    """
    if WEIGHTS_NAME not in _names(files):
        raise AdapterError(
            f"{files.place} has no {WEIGHTS_NAME}; files of other types are not read, because some"
            " run code (PEFT's save_pretrained writes it with safe_serialization)"
        )
    folder = open_version(_AdapterFiles(files), copy)
    assert layout.adapters is not None
    try:
        adapter_config = read_adapter_config(folder.copy)
        checkpoint = folder.checkpoint()
        pairs = find_pairs(checkpoint.shapes(), config, layout.adapters.rank)
        values = _read_values(pairs, checkpoint, adapter_config, config, layout)
    except AdapterError as error:
        raise AdapterError(f"{files.place}: {error}") from error
    return Adapter(
        values,
        max(pair.rank for pair in pairs.values()),
        sum(leaf.nbytes for leaf in jax.tree.leaves(values)),
        folder.is_published,
    )


def slot_bytes(config: ModelConfig, layout: DecoderLayout) -> int:
    """The host memory that one adapter takes."""
    sizes = of_layers(config, layout, lambda shape, _: math.prod(shape), of_slot=True)
    return sum(jax.tree.leaves(sizes)) * layout.dtype.itemsize


def empty_values(config: ModelConfig, layout: DecoderLayout) -> SlotValues:
    """A slot of zeros: an adapter that adds nothing."""
    values: SlotValues = of_layers(
        config, layout, lambda shape, _: np.zeros(shape, layout.dtype), of_slot=True
    )
    return values


def _names(files: Files) -> list[str]:
    try:
        return files.names()
    except OSError as error:
        raise CheckpointError(f"{files.place} cannot be listed: {error}") from error


def _read_values(
    pairs: Pairs,
    checkpoint: Checkpoint,
    adapter_config: AdapterConfig,
    config: ModelConfig,
    layout: DecoderLayout,
) -> SlotValues:
    values = empty_values(config, layout)
    arrays = _by_layer(values, config, layout)
    for (layer, matrix), pair in pairs.items():
        of_kind = config.of_layer(layer)
        scale = adapter_config.scale(pair.module, pair.rank)
        a = _read(checkpoint, pair, "A").T
        b = _read(checkpoint, pair, "B").T * np.float32(scale)
        if matrix in ("k", "v"):
            by_head = b.reshape(pair.rank, of_kind.num_kv_heads, of_kind.head_dim)
            copies = layout.kv_heads(of_kind) // of_kind.num_kv_heads
            b = np.repeat(by_head, copies, axis=1).reshape(pair.rank, -1)
        for side, part in (("A", a), ("B", b)):
            # Zero times infinity is no number: such an adapter would spoil other rows of a step.
            if not np.isfinite(part.astype(layout.dtype)).all():
                raise AdapterError(
                    f"{WEIGHTS_NAME}: tensor {pair.names[side]} has values that are not finite"
                )
        _write(arrays[layer], matrix, a, b)
    return values


def _by_layer(
    values: SlotValues, config: ModelConfig, layout: DecoderLayout
) -> dict[int, AdapterArrays]:
    """Each layer's arrays, as views of the stacks'."""
    return {
        layer: jax.tree.map(lambda w, nth=nth: w[nth], arrays) if layout.stacked else arrays
        for arrays, layers in zip(values, layout.stacks(config), strict=True)
        for nth, layer in enumerate(layers)
    }


def _read(checkpoint: Checkpoint, pair: Pair, side: str) -> np.ndarray:
    name = pair.names[side]
    checkpoint.check(name, checkpoint.shapes()[name])
    return checkpoint.read(name).astype(np.float32)


def _write(arrays: AdapterArrays, matrix: Matrix, a: np.ndarray, b: np.ndarray) -> None:
    """Write a pair [in, rank], [rank, out] to its place, the rest of the rank staying zero."""
    rank = a.shape[1]
    b_name, a_name, number = _PLACES[matrix]
    of_slot = getattr(arrays, b_name).shape[0]
    getattr(arrays, a_name)[:, number * of_slot : number * of_slot + rank] = a
    getattr(arrays, b_name)[:rank] = b
