"""What a checkpoint's generation_config.json says of sampling, for requests that say nothing.

Reads the five options that vLLM takes from the file too. Knows neither their ranges nor requests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.checkpoint.json_files import JsonFileError, read_object

GENERATION_CONFIG = "generation_config.json"
_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty")
_WHOLE = ("top_k",)


def sampling_defaults(folder: Path) -> dict[str, float]:
    """The options by name; empty without the file. Raises JsonFileError for what is no number."""
    path = folder / GENERATION_CONFIG
    try:
        fields = read_object(path)
    except FileNotFoundError:
        return {}
    named = {name: fields[name] for name in (*_NUMBERS, *_WHOLE) if fields.get(name) is not None}
    return {name: _number(path, name, value) for name, value in named.items()}


def _number(path: Path, name: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (name in _WHOLE and value != value // 1):
        kind = "an integer" if name in _WHOLE else "a number"
        raise JsonFileError(f"{path}: {name} must be {kind}, not {value!r}")
    return int(value) if name in _WHOLE else float(value)
