"""The reference outputs of `scripts/golden.py`, read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


def names() -> list[str]:
    """The models that have a reference."""
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


def read(name: str) -> Reference:
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    ends = np.cumsum(arrays.pop("prompt_lengths"))
    prompts = np.split(arrays.pop("prompt_ids"), ends[:-1])
    return Reference([prompt.tolist() for prompt in prompts], **arrays)
