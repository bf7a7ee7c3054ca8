"""The reference outputs of `scripts/golden.py`, read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Reference:
    """What transformers computed, in float32; the arrays are those `scripts.golden` describes."""

    prompts: list[list[int]]
    position_prompts: NDArray[np.int32]
    positions: NDArray[np.int32]
    max_logits: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    top_logits: NDArray[np.float32]
    sampled_ids: NDArray[np.int32]
    sampled_logits: NDArray[np.float32]
    full_logits: NDArray[np.float32]
    greedy_ids: NDArray[np.int32]
    margins: NDArray[np.float32]

    def error(self, logits: list[NDArray[Any]]) -> float:
        """How far logits [tokens, V] of every prompt are off, in parts of a position's largest."""
        checked = zip(self.position_prompts, self.positions, strict=True)
        rows = np.stack([logits[prompt][position] for prompt, position in checked])
        last = np.stack([logits[prompt][-1] for prompt in range(len(self.full_logits))])
        pairs = [
            (np.take_along_axis(rows, self.top_ids, axis=1), self.top_logits, self.max_logits),
            (rows[:, self.sampled_ids], self.sampled_logits, self.max_logits),
            (np.abs(rows).max(1, keepdims=True), self.max_logits[:, None], self.max_logits),
            (last, self.full_logits, np.abs(self.full_logits).max(1)),
        ]
        return max(
            float(np.max(np.abs(found - expected) / largest[:, None]))
            for found, expected, largest in pairs
        )


def names() -> list[str]:
    """The models that have a reference."""
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


@dataclass(frozen=True)
class Vectors:
    """Prompts, and the vector [P, size] of each, as transformers computed it."""

    prompts: list[list[int]]
    vectors: NDArray[np.float32]


def read_vectors(name: str) -> Vectors:
    """The reference of a model that makes embeddings."""
    with np.load(FOLDER / "embedders" / f"{name}.npz") as file:
        ends = np.cumsum(file["prompt_lengths"])
        prompts = np.split(file["prompt_ids"], ends[:-1])
        return Vectors([prompt.tolist() for prompt in prompts], file["vectors"])


def read(name: str) -> Reference:
    """The reference of a model; `images/` before a name of one with images."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    ends = np.cumsum(arrays.pop("prompt_lengths"))
    prompts = np.split(arrays.pop("prompt_ids"), ends[:-1])
    return Reference([prompt.tolist() for prompt in prompts], **arrays)


def saved_config(name: str) -> dict[str, Any]:
    """The config.json of a random model as transformers writes it."""
    return json.loads((FOLDER / f"{name}.json").read_text())
