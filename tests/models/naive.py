"""The decoder families in NumPy: float64, one sequence at a time, no cache. Other tests' oracle.

It reads config.json itself, in its published spelling and in the one that transformers 5 writes,
and shares no code with what it checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.models import naive_recurrent

type Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Reading:
    """What a config.json says, defaults filled in. Lists have one entry a layer."""

    num_heads: int
    windows: list[int | None]
    frequencies: list[np.ndarray]
    query_scale: float
    query_growth: tuple[float, int]
    attention_cap: float | None
    logit_cap: float | None
    eps: float
    norm_offset: float
    embedding_scale: float
    activation: str
    experts_per_token: int
    renormalise: bool
    value_norm: bool
    output_gate: bool
    num_key_heads: int


def read(config: dict[str, Any]) -> Reading:
    is_gemma = config["architectures"][0].startswith("Gemma")
    is_gemma4 = config["architectures"][0].startswith("Gemma4")
    is_hybrid = config["architectures"][0].startswith("Qwen3_5")
    hf = gemma_fields(config) if is_gemma else config.get("text_config", config)
    kinds = layer_kinds(hf)
    head_dim = hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"]
    return Reading(
        num_heads=hf["num_attention_heads"],
        windows=[hf["sliding_window"] if kind == "sliding_attention" else None for kind in kinds],
        frequencies=[
            frequencies(hf, head_size(hf, layer), kind) for layer, kind in enumerate(kinds)
        ],
        query_scale=1.0
        if is_gemma4
        else hf.get("query_pre_attn_scalar", head_dim) ** -0.5 * rope_factor(hf) ** 2,
        query_growth=query_growth(hf),
        attention_cap=hf.get("attn_logit_softcapping"),
        logit_cap=hf.get("final_logit_softcapping"),
        eps=hf["rms_norm_eps"],
        norm_offset=1.0 if is_hybrid or (is_gemma and not is_gemma4) else 0.0,
        embedding_scale=math.sqrt(hf["hidden_size"]) if is_gemma else 1.0,
        activation=hf["hidden_activation"] if is_gemma else hf.get("hidden_act", "silu"),
        experts_per_token=hf.get("num_experts_per_tok", hf.get("top_k_experts")) or 0,
        renormalise=hf.get(
            "norm_topk_prob", is_gemma4 or is_hybrid or hf.get("model_type") == "gpt_oss"
        ),
        value_norm=is_gemma4,
        output_gate=is_hybrid,
        # Of its recurrent layers.
        num_key_heads=hf.get("linear_num_key_heads", 0),
    )


def head_size(hf: dict[str, Any], layer: int) -> int:
    """Gemma 4's full layers have larger heads; newer files list each layer that differs."""
    usual = hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"]
    if "per_layer_config" in hf:
        return hf["per_layer_config"].get(str(layer), {}).get("head_dim", usual)
    is_full = layer_kinds(hf)[layer] == "full_attention"
    return hf.get("global_head_dim", usual) if is_full else usual


def gemma_fields(config: dict[str, Any]) -> dict[str, Any]:
    """The text model's fields, with those that published checkpoints leave out."""
    text = config.get("text_config", config)
    defaults = {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    }
    if text["model_type"].startswith("gemma4"):
        return {"sliding_window_pattern": 6} | text
    if text["model_type"] == "gemma2":
        defaults |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
        defaults |= {"rope_theta": 10_000.0, "sliding_window_pattern": 2}
    else:
        defaults |= {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}
        defaults |= {"sliding_window_pattern": 6}
    return defaults | text


def layer_kinds(hf: dict[str, Any]) -> list[str]:
    """`full_attention`, `sliding_attention` or `linear_attention` of every layer."""
    if hf.get("layer_types"):
        return hf["layer_types"]
    layers = range(hf["num_hidden_layers"])
    if "linear_num_key_heads" in hf:
        return ["full_attention" if layer % 4 == 3 else "linear_attention" for layer in layers]
    if not hf.get("sliding_window") or not hf.get("use_sliding_window", True):
        return ["full_attention" for _ in layers]
    if "sliding_window_pattern" in hf:
        full = [(layer + 1) % hf["sliding_window_pattern"] == 0 for layer in layers]
        full[-1] |= hf["model_type"].startswith("gemma4")
    else:
        full = [layer < hf.get("max_window_layers", 0) for layer in layers]
    return ["full_attention" if is_full else "sliding_attention" for is_full in full]


def forward(config: dict[str, Any], tensors: Tensors, tokens: list[int]) -> np.ndarray:
    """Logits of every position, float64 [tokens, V]."""
    return logits(read(config), tensors, tokens)


def logits(reading: Reading, tensors: Tensors, tokens: list[int]) -> np.ndarray:
    w = _widened(tensors)
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return _cap(_hidden(reading, w, tokens) @ head.T, reading.logit_cap)


def hidden(config: dict[str, Any], tensors: Tensors, tokens: list[int]) -> np.ndarray:
    """Hidden states of every position after the final norm, float64 [tokens, D]."""
    return _hidden(read(config), _widened(tensors), tokens)


def _hidden(reading: Reading, w: Tensors, tokens: list[int]) -> np.ndarray:
    x = w["model.embed_tokens.weight"][tokens] * reading.embedding_scale
    for layer in range(len(reading.windows)):
        x = _layer(reading, w, layer, x)
    return _norm(reading, w, "model.norm", x)


def _widened(tensors: Tensors) -> Tensors:
    return {
        name.replace("language_model.", "").replace("model.model.", "model."): tensor.astype(float)
        for name, tensor in tensors.items()
    }


def _layer(reading: Reading, w: Tensors, layer: int, x: np.ndarray) -> np.ndarray:
    """Gemma norms what attention and MLP are given and what they return, the others the former."""
    name = f"model.layers.{layer}."

    def norm(which: str, y: np.ndarray, number: str = "") -> np.ndarray:
        return _norm(reading, w, f"{name}{which}_layernorm{number}", y)

    attended = _mix(reading, w, layer, norm("input", x))
    if f"{name}pre_feedforward_layernorm.weight" not in w:
        x = x + attended
        return x + _mlp(reading, w, name + "mlp.", norm("post_attention", x))
    x = x + norm("post_attention", attended)
    out = _mlp(reading, w, name + "mlp.", norm("pre_feedforward", x))
    if f"{name}router.scale" in w:
        chosen = _experts_beside(reading, w, name, x, norm("pre_feedforward", x, "_2"))
        out = norm("post_feedforward", out, "_1") + norm("post_feedforward", chosen, "_2")
    return (x + norm("post_feedforward", out)) * w.get(f"{name}layer_scalar", 1.0)


def _norm(reading: Reading, w: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    return _normed(reading, x) * (reading.norm_offset + w[name + ".weight"])


def _normed(reading: Reading, x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + reading.eps)


def _cap(x: np.ndarray, cap: float | None) -> np.ndarray:
    return x if cap is None else cap * np.tanh(x / cap)


def _mix(reading: Reading, w: Tensors, layer: int, x: np.ndarray) -> np.ndarray:
    name = f"model.layers.{layer}.linear_attn."
    if f"{name}A_log" in w:
        return naive_recurrent.mix(w, name, x, reading.num_key_heads, reading.eps)
    return _attention(reading, w, layer, x)


def _attention(reading: Reading, w: Tensors, layer: int, x: np.ndarray) -> np.ndarray:
    name = f"model.layers.{layer}.self_attn."
    heads, length, window = reading.num_heads, len(x), reading.windows[layer]
    head_dim = len(w[f"{name}q_proj.weight"]) // heads // (2 if reading.output_gate else 1)

    def project(letter: str) -> np.ndarray:
        y = x @ w[f"{name}{letter}_proj.weight"].T + w.get(f"{name}{letter}_proj.bias", 0.0)
        return y.reshape(length, -1, head_dim)

    def normed(letter: str, y: np.ndarray) -> np.ndarray:
        has_norm = f"{name}{letter}_norm.weight" in w
        return _norm(reading, w, f"{name}{letter}_norm", y) if has_norm else y

    q, k = project("q"), project("k")
    # A head's gate comes after its query.
    q, gate = (q[:, ::2], q[:, 1::2]) if reading.output_gate else (q, None)
    # A layer without a matrix for values takes the keys' product, which is neither normed nor
    # turned as keys are.
    v = project("v") if f"{name}v_proj.weight" in w else k
    v = _normed(reading, v) if reading.value_norm else v
    q, k = normed("q", q), normed("k", k)
    q, k = (turn(reading.frequencies[layer], y) for y in (q, k))
    beta, period = reading.query_growth
    q = q * (1 + beta * np.log1p(np.arange(length) // period))[:, None, None]
    k, v = (np.repeat(y, heads // y.shape[1], axis=1) for y in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) * reading.query_scale
    distance = np.arange(length)[:, None] - np.arange(length)
    seen = (distance >= 0) & (distance < (window or length))
    scores = np.where(seen, _cap(scores, reading.attention_cap), -np.inf)
    weights = _softmax(_with_sinks(scores, w.get(f"{name}sinks")))[:, :, :length]
    out = np.einsum("hqk,khd->qhd", weights, v)
    out = (out if gate is None else out / (1 + np.exp(-gate))).reshape(length, -1)
    return out @ w[f"{name}o_proj.weight"].T + w.get(f"{name}o_proj.bias", 0.0)


def _with_sinks(scores: np.ndarray, sinks: np.ndarray | None) -> np.ndarray:
    """A last key for each head that every query sees with the same score."""
    if sinks is None:
        return scores
    column = np.broadcast_to(sinks[:, None, None], (*scores.shape[:2], 1))
    return np.concatenate([scores, column], axis=2)


def _softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _mlp(reading: Reading, w: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    if name + "gate.weight" in w:
        return _experts(reading, w, name, x)
    if name + "router.weight" in w:
        return _joined_experts(reading, w, name, x)
    gate = ACTIVATIONS[reading.activation](x @ w[name + "gate_proj.weight"].T)
    return (gate * (x @ w[name + "up_proj.weight"].T)) @ w[name + "down_proj.weight"].T


def _experts(reading: Reading, w: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    shares = route(reading, x @ w[name + "gate.weight"].T)
    out = np.zeros_like(x)
    for expert, share in enumerate(shares.T):
        rows = np.flatnonzero(share)
        dense = _mlp(reading, w, f"{name}experts.{expert}.", x[rows])
        out[rows] += share[rows, None] * dense
    if f"{name}shared_expert_gate.weight" in w:
        share = 1 / (1 + np.exp(-x @ w[f"{name}shared_expert_gate.weight"].T))
        out += share * _mlp(reading, w, f"{name}shared_expert.", x)
    return out


def _joined_experts(reading: Reading, w: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    """Those of gpt-oss: gate and up alternate, both are cut off, and everything has a bias."""
    shares = route(reading, x @ w[name + "router.weight"].T + w[name + "router.bias"])
    out = np.zeros_like(x)
    for expert, share in enumerate(shares.T):
        rows, name_of = np.flatnonzero(share), f"{name}experts."
        inner = x[rows] @ w[name_of + "gate_up_proj"][expert]
        inner = inner + w[name_of + "gate_up_proj_bias"][expert]
        gate, up = np.minimum(inner[:, ::2], 7.0), np.clip(inner[:, 1::2], -7.0, 7.0)
        inner = (up + 1) * gate / (1 + np.exp(-1.702 * gate))
        one = inner @ w[name_of + "down_proj"][expert] + w[name_of + "down_proj_bias"][expert]
        out[rows] += share[rows, None] * one
    return out


def _experts_beside(
    reading: Reading, w: Tensors, name: str, x: np.ndarray, normed: np.ndarray
) -> np.ndarray:
    """Those of Gemma 4: the router reads the residual stream through a norm of its own."""
    seen = _normed(reading, x) * w[f"{name}router.scale"] / np.sqrt(x.shape[1])
    shares = route(reading, seen @ w[f"{name}router.proj.weight"].T)
    shares = shares * w[f"{name}router.per_expert_scale"]
    out = np.zeros_like(x)
    for expert, share in enumerate(shares.T):
        gate, up = np.split(w[f"{name}experts.gate_up_proj"][expert], 2)
        inner = ACTIVATIONS[reading.activation](normed @ gate.T) * (normed @ up.T)
        out += share[:, None] * (inner @ w[f"{name}experts.down_proj"][expert].T)
    return out


def route(reading: Reading, scores: np.ndarray) -> np.ndarray:
    """The share that every expert has in a token, [tokens, experts]: zero but for the chosen."""
    shares = _softmax(scores)
    refused = np.argsort(shares, axis=-1)[:, : -reading.experts_per_token]
    np.put_along_axis(shares, refused, 0.0, axis=-1)
    return shares / shares.sum(-1, keepdims=True) if reading.renormalise else shares


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": _gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
}


def rotate(config: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Rows of [tokens, heads, head_dim] turned by their positions, as the full layers do."""
    return turn(frequencies(config, x.shape[-1], "full_attention"), x)


def turn(frequencies: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Pairs that are half of the turning part apart; the rest of a head stays."""
    angles, half = np.arange(len(x))[:, None, None] * frequencies, len(frequencies)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], -1)


def frequencies(hf: dict[str, Any], head_dim: int, kind: str) -> np.ndarray:
    """Radians a position, of each pair of the head: in Gemma 3 its windows have their own."""
    rope = _rope(hf, kind)
    part, half = rope.get("partial_rotary_factor", 1.0), head_dim // 2
    turning = part * half
    if rope.get("rope_type") == "default":  # The pairs lie in the first part of the head.
        half = turning = int(turning)
    frequencies = rope["rope_theta"] ** (-np.arange(half) / half) * (np.arange(half) < turning)
    return _stretch(rope, frequencies)


def _rope(hf: dict[str, Any], kind: str) -> dict[str, Any]:
    new = hf.get("rope_parameters") or {}
    if new:
        return new.get(kind, new)
    if kind == "sliding_attention" and "rope_local_base_freq" in hf:
        return {"rope_theta": hf["rope_local_base_freq"]}
    return {"rope_theta": hf["rope_theta"]} | (hf.get("rope_scaling") or {})


def _stretch(rope: dict[str, Any], frequencies: np.ndarray) -> np.ndarray:
    kind = rope.get("rope_type", "default")
    if kind in ("default", "proportional"):
        return frequencies
    if kind == "linear":
        return frequencies / rope["factor"]
    if kind == "yarn":
        return _stretch_by_turns(rope, frequencies)
    stretched = []
    for frequency in frequencies:
        turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        keep = min(1.0, max(0.0, (turns - low) / (high - low)))
        stretched.append(frequency * keep + frequency / rope["factor"] * (1 - keep))
    return np.array(stretched)


def _stretch_by_turns(rope: dict[str, Any], frequencies: np.ndarray) -> np.ndarray:
    half, length = len(frequencies), rope["original_max_position_embeddings"]

    def pair_of(turns: float) -> float:
        return half * math.log(length / (turns * 2 * math.pi)) / math.log(rope["rope_theta"])

    low, high = pair_of(rope["beta_fast"]), pair_of(rope["beta_slow"])
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    ramp = np.clip((np.arange(half) - low) / max(high - low, 1e-3), 0, 1)
    return frequencies * (1 - ramp) + frequencies / rope["factor"] * ramp


def rope_factor(hf: dict[str, Any]) -> float:
    """What turned queries and turned keys are multiplied by."""
    rope = _rope(hf, "full_attention")
    if rope.get("rope_type") != "yarn" or rope.get("mscale") == rope.get("mscale_all_dim", 0):
        return 1.0
    return 0.1 * math.log(rope["factor"]) + 1


def query_growth(hf: dict[str, Any]) -> tuple[float, int]:
    rope = _rope(hf, "full_attention")
    return rope.get("llama_4_scaling_beta", 0.0), rope.get("original_max_position_embeddings", 1)
