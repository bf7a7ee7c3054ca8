"""Reads fields of a Hugging Face config.json by their types, or refuses the field by name.

Knows neither architectures nor which fields there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def count(hf: HF, key: str, default: int = 0) -> int:
    """A number of things, of which there may be none."""
    value = hf.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_SIZE:
        raise ModelConfigError(f"config.json: {key} must be an integer from 0 on, not {value!r}")
    return value


def flag(hf: HF, key: str, default: bool = False) -> bool:
    value = hf.get(key)
    if value is None:
        value = default
    if not isinstance(value, bool):
        raise ModelConfigError(f"config.json: {key} must be true or false, not {value!r}")
    return value


def word(hf: HF, keys: Sequence[str], default: str) -> str:
    """A text, by the first of several names that has one."""
    for key in keys:
        value = hf.get(key)
        if value is not None and not isinstance(value, str):
            raise ModelConfigError(f"config.json: {key} must be a string, not {value!r}")
        if value:
            return value
    return default


def _is_usable(value: float) -> bool:
    """False for NaN and Infinity too, which JSON files may hold."""
    return 0 < value < _LARGEST_NUMBER


def optional_number(hf: HF, key: str) -> float | None:
    return None if hf.get(key) is None else number(hf, key)
