"""Writes safetensors files piece by piece, so that no whole weight has to be in memory.

A file gets its final name only when it is completely on the disk, so a file with that name is
complete. Does not know where weights come from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.checkpoint import manifest
from models.gguf.hf_tensors import Weight

_ALIGNMENT = 8


def write_shards(
    folder: Path, weights: Sequence[Weight], shard_bytes: int, advance: Callable[[int], None]
) -> None:
    """Write the weights as one file or, over `shard_bytes`, as several with an index.

    Keeps shards that exist already. Calls `advance` with the number of bytes written.
    """
    shards = split(weights, shard_bytes)
    names = shard_names(len(shards))
    for name, shard in zip(names, shards, strict=True):
        path = folder / name
        if path.exists():
            advance(sum(weight.num_bytes for weight in shard))
        else:
            _write(path, shard, advance)
    if len(shards) > 1:
        manifest.write_json(folder / "model.safetensors.index.json", _index(names, shards))


def split(weights: Sequence[Weight], shard_bytes: int) -> list[list[Weight]]:
    """Groups of consecutive weights of at most `shard_bytes`; a larger weight is its own group."""
    shards: list[list[Weight]] = []
    room = 0
    for weight in weights:
        if weight.num_bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(weight)
        room -= weight.num_bytes
    return shards


def shard_names(count: int) -> list[str]:
    """The file names a Hugging Face checkpoint of `count` shards has."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


def _write(path: Path, weights: Sequence[Weight], advance: Callable[[int], None]) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        file.write(_header(weights))
        for weight in weights:
            for piece in weight.pieces():
                file.write(piece)
                advance(len(piece))
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    manifest.sync_folder(path.parent)


def _header(weights: Sequence[Weight]) -> bytes:
    """The header with each weight's place: its length (8 bytes, little-endian), then JSON."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for weight in weights:
        start, end = end, end + weight.num_bytes
        entries[weight.name] = {
            "dtype": "BF16",
            "shape": weight.shape,
            "data_offsets": [start, end],
        }
    body = json.dumps(entries, separators=(",", ":")).encode()
    body += b" " * (-len(body) % _ALIGNMENT)
    return len(body).to_bytes(8, "little") + body


def _index(names: Sequence[str], shards: Sequence[Sequence[Weight]]) -> dict[str, Any]:
    total = sum(weight.num_bytes for shard in shards for weight in shard)
    weight_map = {
        weight.name: name for name, shard in zip(names, shards, strict=True) for weight in shard
    }
    return {"metadata": {"total_size": total}, "weight_map": weight_map}
