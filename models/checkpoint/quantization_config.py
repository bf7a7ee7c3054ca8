"""Where a checkpoint says how it is quantized: in config.json, for its text model, or beside it.

Does not know what the fields mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.checkpoint.json_files import read_object

# What modelopt writes; later versions write the same into config.json too.
_MODELOPT = "hf_quant_config.json"
_KEYS = ("quantization_config", "compression_config")


def with_quantization(folder: Path, hf: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of config.json, with the `quantization_config` from wherever the folder has it.

    Raises JsonFileError.
    """
    text = hf.get("text_config")
    for fields in (hf, text if isinstance(text, dict) else {}):
        if found := next((fields[key] for key in _KEYS if fields.get(key)), None):
            return {**hf, _KEYS[0]: found}
    return {**hf, **_from_modelopt(folder)}


def _from_modelopt(folder: Path) -> dict[str, Any]:
    try:
        found = read_object(folder / _MODELOPT).get("quantization")
    except FileNotFoundError:
        return {}
    # Without an algorithm, only keys and values are quantized, by scales that are not used.
    if isinstance(found, dict) and found.get("quant_algo") is None:
        return {}
    fields = {"quant_method": "modelopt", **found} if isinstance(found, dict) else found
    return {_KEYS[0]: fields}
