"""Published models as data: each model's shape, and the slice and limits to plan for.

A preset has the fields of a Hugging Face config.json and no weights. It describes a shape; it does
not promise that a given checkpoint has that shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

from models.config import ModelConfig, ModelConfigError
from models.huggingface.config_file import parse_config

_SUFFIX = ".yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """The slice that a preset fits on, and how many sequences of `context` tokens run at once."""

    slice: str
    max_num_seqs: int
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One preset file of this folder.

    `compiler_options`: by generation of chip and kind of step, the options of XLA's compiler with
    which the steps were predicted to be fastest.
    """

    name: str
    config: ModelConfig
    recommended: Recommended
    compiler_options: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)


def preset_names() -> tuple[str, ...]:
    """The names of all presets."""
    files = (entry.name for entry in resources.files(__package__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)))


def load_preset(name: str) -> Preset:
    """The preset of this name. Raises ModelConfigError if there is none."""
    if name not in preset_names():
        raise ModelConfigError(f"{name!r} is no preset; these are: {', '.join(preset_names())}")
    text = resources.files(__package__).joinpath(name + _SUFFIX).read_text(encoding="utf-8")
    fields: dict[str, Any] = yaml.safe_load(text)
    return Preset(
        name=name,
        config=parse_config(fields["config"]),
        recommended=Recommended(**fields["recommended"]),
        compiler_options=fields.get("compiler_options", {}),
    )
