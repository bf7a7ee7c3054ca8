"""Reads the rotary embedding of a Hugging Face config.json, in the older and the newer form.

The older form has rope_theta and rope_scaling, the newer has rope_parameters, also by kind of
layers. A scaling that the decoder does not compute is refused by name.
"""

from __future__ import annotations

import math

from models.config import ModelConfigError, QueryGrowth, RopeConfig, RopeScaling
from models.huggingface.fields import HF, flag, integer, number, optional_number, word


def rope_parameters(hf: HF, kind: str) -> HF:
    """The rope fields of one kind of layers, from any of the three forms."""
    is_older = hf.get("rope_parameters") in (None, {})
    key = "rope_scaling" if is_older else "rope_parameters"
    parameters = {} if hf.get(key) is None else hf[key]
    if isinstance(parameters, dict):
        if kind not in parameters and any(isinstance(one, dict) for one in parameters.values()):
            raise ModelConfigError(f"config.json: {key} has nothing for {kind}")
        parameters = parameters.get(kind, parameters)
    if not isinstance(parameters, dict):
        raise ModelConfigError(f"config.json: {key} must be an object, not {parameters!r}")
    return parameters


def rope(hf: HF, parameters: HF, *, may_be_partial: bool = False) -> RopeConfig:
    """`may_be_partial`: a part of each head may be rotated like a head of that size."""
    part = _part(parameters, hf) if may_be_partial else 1.0
    turning = 1.0 if may_be_partial else _turning(parameters, hf)
    theta = number({**hf, **parameters}, "rope_theta", 10_000.0)
    return RopeConfig(
        theta=theta,
        turning=turning,
        part=part,
        scaling=_rope_scaling(parameters, hf),
        query_growth=_query_growth(parameters, hf),
    )


def longest_context(hf: HF, found: RopeConfig) -> int:
    """The tokens that the model's positions are for.

    YaRN stretches the context that was trained. Some files give `max_position_embeddings` before
    that, as the cards of Qwen tell people to write them, others after it.
    """
    named = integer(hf, "max_position_embeddings")
    scaling = found.scaling
    if scaling is None or scaling.kind != "yarn":
        return named
    stretched = scaling.original_max_position * scaling.factor
    return max(named, integer({"YaRN's context": int(stretched)}, "YaRN's context"))


def _turning(parameters: HF, hf: HF) -> float:
    """The share of pairs that turn. Other types than `proportional` give the rest no place."""
    share = number({**hf, **parameters}, "partial_rotary_factor", 1.0)
    if parameters.get("rope_type") != "proportional":
        if share != 1.0:
            raise ModelConfigError(f"partial_rotary_factor {share!r} is not supported; only 1.0 is")
        return 1.0
    if number(parameters, "factor", 1.0) != 1.0:
        raise ModelConfigError("rope type proportional with a factor is not supported")
    return min(1.0, share)


def _part(parameters: HF, hf: HF) -> float:
    """The share of each head that is rotated, which must be whole pairs of numbers."""
    if parameters.get("rope_type") == "proportional":
        raise ModelConfigError("rope type proportional is not supported for this architecture")
    part = number({**hf, **parameters}, "partial_rotary_factor", 1.0)
    size = integer(hf, "head_dim") * part
    if part > 1 or size % 2:
        raise ModelConfigError(
            f"partial_rotary_factor {part:g} does not leave an even part of head_dim"
            f" {hf['head_dim']}"
        )
    return part


def _query_growth(parameters: HF, hf: HF) -> QueryGrowth | None:
    beta = optional_number(parameters, "llama_4_scaling_beta")
    if beta is None:
        return None
    return QueryGrowth(beta=beta, period=_original_max_position(parameters, hf))


def _rope_scaling(parameters: HF, hf: HF) -> RopeScaling | None:
    kind = word(parameters, ("rope_type", "type"), "")
    if not kind and "factor" in parameters:
        raise ModelConfigError("config.json: rope scaling has a factor but no rope_type")
    if kind in ("", "default", "proportional"):
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=number(parameters, "factor"))
    if kind == "llama3":
        return _llama3(parameters, hf)
    if kind == "yarn":
        return _yarn(parameters, hf)
    raise ModelConfigError(
        f"rope type {kind!r} is not supported; default, linear, llama3, proportional and yarn are"
    )


def _original_max_position(parameters: HF, hf: HF) -> int:
    max_position = integer(hf, "max_position_embeddings")
    return integer(parameters, "original_max_position_embeddings", max_position)


def _llama3(parameters: HF, hf: HF) -> RopeScaling:
    low, high = number(parameters, "low_freq_factor"), number(parameters, "high_freq_factor")
    if high <= low:
        raise ModelConfigError(
            f"config.json: high_freq_factor {high:g} must be above low_freq_factor {low:g}"
        )
    return RopeScaling(
        kind="llama3",
        factor=number(parameters, "factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position=_original_max_position(parameters, hf),
    )


def _yarn(parameters: HF, hf: HF) -> RopeScaling:
    if number({**hf, **parameters}, "rope_theta", 10_000.0) <= 1:
        raise ModelConfigError("config.json: rope_theta must be above 1 where YaRN scales by it")
    original = _original_max_position(parameters, hf)
    factor = number(parameters, "factor", integer(hf, "max_position_embeddings") / original)
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_max_position=original,
        beta_fast=number(parameters, "beta_fast", 32.0),
        beta_slow=number(parameters, "beta_slow", 1.0),
        truncate=flag(parameters, "truncate", True),
        attention_factor=number(
            parameters, "attention_factor", _attention_factor(parameters, factor)
        ),
    )


def _attention_factor(parameters: HF, factor: float) -> float:
    """The growth that YaRN recommends for this factor, or the quotient of two that a file names."""

    def growth(share: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * share * math.log(factor) + 1.0

    if parameters.get("mscale") and parameters.get("mscale_all_dim"):
        return growth(number(parameters, "mscale")) / growth(number(parameters, "mscale_all_dim"))
    return growth(1.0)
