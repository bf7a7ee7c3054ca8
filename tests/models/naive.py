"""The decoder in NumPy: float64, one sequence at a time, no cache. The oracle of other tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def forward(
    config: dict[str, Any], tensors: dict[str, np.ndarray], tokens: list[int]
) -> np.ndarray:
    """Logits of every position, float64 [tokens, V]."""
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    eps = config["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        x = x + _attention(
            config, w, name + "self_attn.", _norm(x, w[name + "input_layernorm.weight"], eps)
        )
        h = _norm(x, w[name + "post_attention_layernorm.weight"], eps)
        gate = h @ w[name + "mlp.gate_proj.weight"].T
        up = h @ w[name + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[name + "mlp.down_proj.weight"].T
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return _norm(x, w["model.norm.weight"], eps) @ head.T


def greedy(
    config: dict[str, Any], tensors: dict[str, np.ndarray], prompt: list[int], count: int
) -> list[int]:
    """The next `count` tokens, each the most likely one."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(np.argmax(forward(config, tensors, tokens)[-1])))
    return tokens[len(prompt) :]


def _norm(x: np.ndarray, scale: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale


def _attention(
    config: dict[str, Any], w: dict[str, np.ndarray], name: str, x: np.ndarray
) -> np.ndarray:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    length = len(x)

    def project(letter: str, count: int) -> np.ndarray:
        y = x @ w[f"{name}{letter}_proj.weight"].T + w.get(f"{name}{letter}_proj.bias", 0.0)
        y = y.reshape(length, count, -1)
        if f"{name}{letter}_norm.weight" in w:
            y = _norm(y, w[f"{name}{letter}_norm.weight"], config["rms_norm_eps"])
        return y

    q, k, v = project("q", heads), project("k", kv_heads), project("v", kv_heads)
    q, k = rotate(config, q), rotate(config, k)
    k, v = (np.repeat(y, heads // kv_heads, axis=1) for y in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    positions = np.arange(length)
    seen = positions[None, :] <= positions[:, None]
    if config.get("sliding_window"):
        seen &= positions[None, :] > positions[:, None] - config["sliding_window"]
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("hqk,khd->qhd", weights, v).reshape(length, -1)
    return out @ w[f"{name}o_proj.weight"].T


def rotate(config: dict[str, Any], x: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    frequencies = _stretch(config, config["rope_theta"] ** (-np.arange(half) / half))
    angles = np.arange(len(x))[:, None, None] * frequencies
    first, second = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def _stretch(config: dict[str, Any], frequencies: np.ndarray) -> np.ndarray:
    scaling = config.get("rope_scaling")
    if not scaling:
        return frequencies
    if scaling["rope_type"] == "linear":
        return frequencies / scaling["factor"]
    stretched = []
    for frequency in frequencies:
        turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        keep = min(1.0, max(0.0, (turns - low) / (high - low)))
        stretched.append(frequency * keep + frequency / scaling["factor"] * (1 - keep))
    return np.array(stretched)
