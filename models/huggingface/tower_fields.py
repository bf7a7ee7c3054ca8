"""A tower's fields in a config.json: what a file leaves out has the defaults of its kind of tower.

Knows no kind of tower.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import ModelConfigError
from models.huggingface.fields import HF


def tower_fields(hf: HF, defaults: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields of `vision_config`, null as if left out; None for another `model_type`."""
    fields = hf.get("vision_config")
    if not isinstance(fields, Mapping):
        return None
    found = {**defaults} | {key: value for key, value in fields.items() if value is not None}
    return found if found["model_type"] == defaults["model_type"] else None


def check_activation(vision: HF, name: str, defaults: Mapping[str, Any]) -> None:
    """Raises ModelConfigError for an activation that is not the default one."""
    if vision[name] != defaults[name]:
        raise ModelConfigError(f"vision_config: {name} {vision[name]!r} is unsupported")
