"""Which options of XLA's compiler a program is compiled with: by chip, model and kind of step.

The nearest table that names a kind of step decides it whole: the setting, then the preset of a
model of the same shape, then the chip's generation. Only programs for a TPU get any. Knows no
compiled program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

import jax

from models.config import ModelConfig, RopeConfig
from models.presets import load_preset, preset_names
from server.config.compiler_options import (
    OptionsByKind,
    check_options,
    read_compiler_options,
)
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.programs import ProgramName
from server.slice.reported_slice import generation_of

type StepKind = Literal["decode", "prefill", "other"]

# On v7x the compiler would copy all layers' weights into tiles of 16 rows at each step.
_SMALL_TILES = {"xla_tpu_control_large_2nd_minor_layout_for_x16": 0}
# More VMEM for one operation gives larger tiles, but from 50 MiB on, a large vocabulary's logits
# move to HBM. Presets whose temporaries stay small with more have an entry of their own.
_BY_GENERATION: Mapping[str, OptionsByKind] = {
    "v6e": {"prefill": {"xla_tpu_scoped_vmem_limit_kib": 49152}},
    "v7x": {
        "decode": _SMALL_TILES,
        "prefill": _SMALL_TILES | {"xla_tpu_scoped_vmem_limit_kib": 49152},
        "other": _SMALL_TILES,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilerOptions:
    """The options of a server's programs; without any, the compiler's own choice."""

    by_kind: OptionsByKind = field(default_factory=dict)

    def of(self, name: ProgramName) -> dict[str, int]:
        """The options of one program."""
        return dict(self.by_kind.get(kind_of_step(name), {}))


def kind_of_step(name: ProgramName) -> StepKind:
    """`decode`, `prefill` or `other`; a step that checks guessed tokens is neither of the two."""
    if not isinstance(name, Bucket) or name.num_drafts:
        return "other"
    return "decode" if name.decode_only else "prefill"


def spell_options(options: Mapping[str, int]) -> str:
    """Options as text that does not depend on their order."""
    return " ".join(f"{option}={options[option]}" for option in sorted(options))


def choose_compiler_options(
    config: ModelConfig, setting: str, device: jax.Device
) -> CompilerOptions:
    """The options for this chip; none for a device that is no TPU. Raises ConfigError."""
    asked = read_compiler_options(setting)
    if device.platform != "tpu":
        return CompilerOptions()
    generation = generation_of(device.device_kind)
    of_chip = _BY_GENERATION.get(generation, {})
    return CompilerOptions(by_kind={**of_chip, **_of_preset(config, generation), **asked})


@cache
def _of_preset(config: ModelConfig, generation: str) -> OptionsByKind:
    """The options that were measured for a model of this shape."""
    for name in preset_names():
        preset = load_preset(name)
        if generation in preset.compiler_options and _shape(preset.config) == _shape(config):
            by_kind = preset.compiler_options[generation]
            check_options(by_kind, f"the preset {name}")
            return by_kind
    return {}


def _shape(config: ModelConfig) -> ModelConfig:
    """The configuration without what does not change the sizes of a step's products."""
    rope = RopeConfig(theta=1.0)
    return replace(
        config,
        architecture="",
        max_position=0,
        dtype="",
        eos_token_ids=(),
        rope=rope,
        local_rope=rope,
        tensor_prefix="",
        vision=None,
    )
