"""Rotary settings of a GGUF file as Hugging Face's `rope_parameters`.

A GGUF file stores Llama 3's scaling as one divisor per frequency (`rope_freqs.weight`), not as the
four numbers of the scaling. This module recovers the four numbers and checks them against the
divisors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.gguf.reader import GgufError, GgufFile

FREQUENCY_DIVISORS = "rope_freqs.weight"
_DEFAULT_THETA = 10_000.0
_TOLERANCE = 1e-3
# `finetuned` says how the model was trained and changes no frequency.
_SCALING_KEYS = ("type", "factor", "original_context_length", "finetuned")


def rope_parameters(
    file: GgufFile, head_dim: int, default_theta: float = _DEFAULT_THETA
) -> dict[str, Any]:
    """`rope_theta` and the scaling; GgufError for an unsupported scaling."""
    prefix = f"{file.required('general.architecture')}.rope"
    if file.metadata.get(f"{prefix}.dimension_count", head_dim) != head_dim:
        raise GgufError("a rotary embedding over part of a head is not supported")
    theta = float(file.metadata.get(f"{prefix}.freq_base", default_theta))
    if FREQUENCY_DIVISORS in file.tensors:
        divisors = file.tensors[FREQUENCY_DIVISORS].rows(slice(None)).ravel()
        return {"rope_theta": theta, **_llama3(divisors, theta, head_dim)}
    return {"rope_theta": theta, **_scaling(file, prefix)}


def _scaling(file: GgufFile, prefix: str) -> dict[str, Any]:
    kind = file.metadata.get(f"{prefix}.scaling.type", "none")
    if kind == "none":
        return {"rope_type": "default"}
    known = {f"{prefix}.scaling.{name}" for name in _SCALING_KEYS}
    for key in file.metadata:
        if key.startswith(f"{prefix}.scaling.") and key not in known:
            raise GgufError(f"{key} is not supported; known: {sorted(known)}")
    factor = float(file.required(f"{prefix}.scaling.factor"))
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = int(file.required(f"{prefix}.scaling.original_context_length"))
        return {"rope_type": kind, "factor": factor, "original_max_position_embeddings": original}
    raise GgufError(f"rope scaling {kind!r} is not supported; known: linear, yarn, llama3")


def _llama3(divisors: NDArray[np.float32], theta: float, head_dim: int) -> dict[str, Any]:
    """The four numbers of Llama 3's scaling.

    A frequency f (turns per token) is divided by 1 above a high bound, by `factor` below a low one,
    and between them the kept share s = (1/divisor - 1/factor) / (1 - 1/factor) is the straight line
    (f * original - low) / (high - low). A common scale of original, low and high cancels out, so
    low is 1, as published.
    """
    turns = theta ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)
    factor = float(divisors.max())
    between = (divisors > 1 + _TOLERANCE) & (divisors < factor * (1 - _TOLERANCE))
    if between.sum() < 2:
        raise GgufError(f"{FREQUENCY_DIVISORS} is not a scaling of the kind Llama 3 has")
    kept = (1 / divisors[between].astype(np.float64) - 1 / factor) / (1 - 1 / factor)
    slope, intercept = np.polyfit(turns[between], kept, 1)
    parameters = {
        "rope_type": "llama3",
        "factor": round(factor, 3),
        "low_freq_factor": 1.0,
        "high_freq_factor": round(float(1 - 1 / intercept), 3),
        "original_max_position_embeddings": round(float(-slope / intercept)),
    }
    if not np.allclose(_llama3_divisors(parameters, turns), divisors, rtol=_TOLERANCE):
        raise GgufError(f"{FREQUENCY_DIVISORS} is not a scaling of the kind Llama 3 has")
    return parameters


def _llama3_divisors(parameters: dict[str, Any], turns: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    original = parameters["original_max_position_embeddings"]
    kept = np.clip((turns * original - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - kept) / parameters["factor"] + kept))
