"""Reads the rotary embedding of a Hugging Face config.json, in the older and the newer form.

The older form has rope_theta and rope_scaling, the newer has rope_parameters, also by kind of
layers. A scaling that the decoder does not compute is refused by name.
"""

from __future__ import annotations

from models.config import ModelConfigError, RopeConfig, RopeScaling
from models.hf_fields import HF, integer, number


def rope_parameters(hf: HF, kind: str) -> HF:
    """The rope fields of one kind of layers, from any of the three forms."""
    key = "rope_parameters" if hf.get("rope_parameters") else "rope_scaling"
    parameters = hf.get(key) or {}
    if isinstance(parameters, dict):
        parameters = parameters.get(kind, parameters)
    if not isinstance(parameters, dict):
        raise ModelConfigError(f"config.json: {key} must be an object, not {parameters!r}")
    return parameters


def rope(hf: HF, parameters: HF) -> RopeConfig:
    rotated = parameters.get("partial_rotary_factor", hf.get("partial_rotary_factor", 1.0))
    if rotated != 1.0:
        raise ModelConfigError(f"partial_rotary_factor {rotated!r} is not supported; only 1.0 is")
    theta = number({**hf, **parameters}, "rope_theta", 10_000.0)
    return RopeConfig(theta=theta, scaling=_rope_scaling(parameters, hf))


def _rope_scaling(parameters: HF, hf: HF) -> RopeScaling | None:
    kind = parameters.get("rope_type") or parameters.get("type")
    if kind is None and "factor" in parameters:
        raise ModelConfigError("config.json: rope scaling has a factor but no rope_type")
    if kind in (None, "default"):
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=number(parameters, "factor"))
    if kind == "llama3":
        max_position = integer(hf, "max_position_embeddings")
        return RopeScaling(
            kind="llama3",
            factor=number(parameters, "factor"),
            low_freq_factor=number(parameters, "low_freq_factor"),
            high_freq_factor=number(parameters, "high_freq_factor"),
            original_max_position=integer(
                parameters, "original_max_position_embeddings", max_position
            ),
        )
    raise ModelConfigError(f"rope type {kind!r} is not supported; default, linear and llama3 are")
