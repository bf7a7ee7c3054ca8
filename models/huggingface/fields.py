"""Reads numbers of a Hugging Face config.json, or refuses the field by name.

Knows neither architectures nor which fields there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import ModelConfigError

type HF = Mapping[str, Any]

# What no model has: a larger value is a mistake, and lists as long as that many layers are made.
_LARGEST = {"num_hidden_layers": 10_000, "num_experts": 100_000, "num_local_experts": 100_000}
_LARGEST_SIZE = 2**31 - 1
_LARGEST_NUMBER = 1e30


def integer(hf: HF, key: str, default: int | None = None) -> int:
    value = hf.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ModelConfigError(f"config.json: {key} must be a positive integer, not {value!r}")
    if value > (largest := _LARGEST.get(key, _LARGEST_SIZE)):
        raise ModelConfigError(f"config.json: {key} must be at most {largest}, not {value}")
    return value


def number(hf: HF, key: str, default: float | None = None) -> float:
    value = hf.get(key)
    if value is None:
        value = default
    if not isinstance(value, int | float) or isinstance(value, bool) or not _is_usable(value):
        raise ModelConfigError(f"config.json: {key} must be a positive number, not {value!r}")
    return float(value)


def _is_usable(value: float) -> bool:
    """False for NaN and Infinity too, which JSON files may hold."""
    return 0 < value < _LARGEST_NUMBER


def optional_number(hf: HF, key: str) -> float | None:
    return None if hf.get(key) is None else number(hf, key)
