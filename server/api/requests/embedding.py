"""What a translator asks of the embedder and what it gets back; neither transport nor engine.

Also the arithmetic between a prompt's hidden states and its vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.link.frames import Pooling

type Vector = np.ndarray[Any, np.dtype[np.float32]]

_SMALLEST_NORM = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts or token ids, each of which becomes a vector.

    `model` empty means the served one. `dimensions` cuts a vector to its first numbers; None keeps
    all. `prompt_name` names the checkpoint's text to put before each input, "" its default; with
    `is_prompted`, the inputs have their texts already.
    `max_tokens` cuts every input to so many tokens, -1 to what the model takes; None refuses a
    longer one. `timeout_seconds` and `source` are as in a request for tokens. `param` is what the
    transport calls the inputs, and `names` what it calls each of them, unless these are numbered.
    """

    inputs: tuple[str | tuple[int, ...], ...]
    model: str = ""
    dimensions: int | None = None
    prompt_name: str = ""
    max_tokens: int | None = None
    add_special_tokens: bool = True
    timeout_seconds: float | None = None
    source: str = ""
    param: str = "input"
    names: tuple[str, ...] = ()
    is_prompted: bool = False

    def name_of(self, index: int) -> str:
        """What an error calls an input."""
        if self.names:
            return self.names[index]
        return self.param if len(self.inputs) == 1 else f"{self.param}[{index}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings[T]:
    """The vectors in the order of the inputs, as the caller has had them encoded."""

    vectors: list[T]
    model: str
    version: str
    num_prompt_tokens: int
    num_cached_tokens: int


def pool(
    parts: Sequence[bytes],
    num_tokens: int,
    pooling: Pooling,
    *,
    layers: Sequence[Callable[[Vector], Vector]] = (),
    dimensions: int | None,
    normalizes: bool,
) -> Vector:
    """The vector of a prompt of `num_tokens`, from the sums of hidden states that its chunks gave.

    `layers` follow the pooling. A cut vector is normalized after the cut, as models with nested
    dimensions are trained.
    """
    total = np.sum([np.frombuffer(part, "<f4") for part in parts], axis=0, dtype=np.float64)
    if pooling == "mean":
        total = total / num_tokens
    for layer in layers:
        total = layer(total.astype(np.float32)).astype(np.float64)
    total = total[:dimensions]
    if normalizes:
        total = total / max(float(np.linalg.norm(total)), _SMALLEST_NORM)
    return total.astype(np.float32)


def cosine(left: Vector, right: Vector) -> float:
    """The cosine of the angle between two vectors, 0 where one has no direction."""
    norms = max(float(np.linalg.norm(left)) * float(np.linalg.norm(right)), _SMALLEST_NORM)
    return float(np.dot(left, right)) / norms
