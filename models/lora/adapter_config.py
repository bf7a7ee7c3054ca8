"""Reads adapter_config.json, as PEFT writes it, or refuses what the server cannot honour.

A setting that changes what an adapter computes is read or is an error, never ignored. Settings of
the training (dropout, task, base model's name) are not read. Knows no tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoint.json_files import JsonFileError, read_object

CONFIG_NAME = "adapter_config.json"

# What an adapter may have only if it is unset, empty or false, and what the setting means.
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "modules_to_save": "whole modules saved with the adapter",
    "lora_bias": "biases of the adapter",
    "fan_in_fan_out": "transposed matrices",
    "target_parameters": "adapters of parameters, such as experts",
    "layer_replication": "repeated layers",
    "trainable_token_indices": "retrained tokens",
    "alora_invocation_tokens": "adapters that begin at a token",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "block-diagonal adapters",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
# Initializations that also change the base model's matrices.
_CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
_PLAIN_NAME = re.compile(r"[\w.]{1,200}")


class AdapterError(ValueError):
    """The server cannot serve an adapter; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What determines an adapter's scales. `alphas` has those of modules, by the end of a name."""

    alpha: float
    alphas: Mapping[str, float]
    is_rank_stabilized: bool

    def scale(self, module: str, rank: int) -> float:
        """What the product of a module's two matrices is multiplied by (Kalajdzievski, 2023)."""
        matching = (
            alpha
            for end, alpha in self.alphas.items()
            if module == end or module.endswith(f".{end}")
        )
        alpha = next(matching, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read the configuration in a folder. AdapterError for one that cannot be served."""
    path = folder / CONFIG_NAME
    try:
        return parse_adapter_config(read_object(path))
    except FileNotFoundError:
        raise AdapterError(
            f"{CONFIG_NAME} is missing: is this an adapter in PEFT's layout?"
        ) from None
    except JsonFileError as error:
        raise AdapterError(str(error)) from error


def parse_adapter_config(fields: Mapping[str, Any]) -> AdapterConfig:
    """What the fields of an adapter_config.json say. Raises AdapterError."""
    if (kind := fields.get("peft_type")) != "LORA":
        raise AdapterError(f"{CONFIG_NAME}: peft_type is {kind!r}; only LORA is supported")
    for name, meaning in _UNSUPPORTED.items():
        if fields.get(name):
            raise AdapterError(
                f"{CONFIG_NAME}: {name} is set ({meaning}), which is not supported; train without"
                " it, or merge the adapter into the model"
            )
    if (bias := fields.get("bias") or "none") != "none":
        raise AdapterError(
            f"{CONFIG_NAME}: bias is {bias!r}; only adapters with bias none are supported"
        )
    _check_initialization(fields.get("init_lora_weights"))
    return AdapterConfig(
        _positive(fields.get("lora_alpha", 8), "lora_alpha"),
        _alphas(fields.get("alpha_pattern") or {}),
        _flag(fields.get("use_rslora"), "use_rslora"),
    )


def _check_initialization(value: object) -> None:
    if isinstance(value, str) and value.lower().startswith(_CHANGES_BASE):
        raise AdapterError(
            f"{CONFIG_NAME}: init_lora_weights is {value!r}, which changed the model's matrices"
            " too; save it as a plain LoRA (PEFT's path_initial_model_for_weight_conversion)"
        )


def _alphas(pattern: object) -> dict[str, float]:
    if not isinstance(pattern, dict):
        raise AdapterError(f"{CONFIG_NAME}: alpha_pattern must be an object, not {pattern!r}")
    for name in pattern:
        if not _PLAIN_NAME.fullmatch(name):
            raise AdapterError(
                f"{CONFIG_NAME}: alpha_pattern names {name[:200]!r}; only names of modules are"
                " supported, no regular expressions"
            )
    return {name: _positive(value, f"alpha_pattern.{name}") for name, value in pattern.items()}


def _flag(value: object, name: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise AdapterError(f"{CONFIG_NAME}: {name} is {value!r}; it must be true or false")
    return bool(value)


def _positive(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise AdapterError(f"{CONFIG_NAME}: {name} is {value!r}; it must be a number above 0")
    return float(value)
