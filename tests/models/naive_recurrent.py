"""The gated delta net of Qwen3.5 in NumPy: float64, token after token, from a state of zeros.

Knows no other layer, and shares no code with what it checks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def mix(
    w: Mapping[str, np.ndarray], name: str, x: np.ndarray, num_key_heads: int, eps: float
) -> np.ndarray:
    """The layer's output [tokens, D], of tensors whose names begin with `name`."""
    heads, value_dim, length = len(w[f"{name}A_log"]), len(w[f"{name}norm.weight"]), len(x)
    taken = _silu(_convolved(x @ w[f"{name}in_proj_qkv.weight"].T, w[f"{name}conv1d.weight"]))
    keys = (taken.shape[1] - heads * value_dim) // 2
    q, k = (
        np.repeat(_unit(y.reshape(length, num_key_heads, -1)), heads // num_key_heads, axis=1)
        for y in (taken[:, :keys], taken[:, keys : 2 * keys])
    )
    v = taken[:, 2 * keys :].reshape(length, heads, value_dim)
    rate = np.log1p(np.exp(x @ w[f"{name}in_proj_a.weight"].T + w[f"{name}dt_bias"]))
    decay = np.exp(-np.exp(w[f"{name}A_log"]) * rate)
    beta = _sigmoid(x @ w[f"{name}in_proj_b.weight"].T)
    out = _remembered(q * k.shape[2] ** -0.5, k, v, decay, beta)
    out = out / np.sqrt((out * out).mean(-1, keepdims=True) + eps) * w[f"{name}norm.weight"]
    out = out.reshape(length, -1) * _silu(x @ w[f"{name}in_proj_z.weight"].T)
    return out @ w[f"{name}out_proj.weight"].T


def _remembered(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, decay: np.ndarray, beta: np.ndarray
) -> np.ndarray:
    state, out = np.zeros((*k.shape[1:], v.shape[2])), np.zeros(v.shape)
    for t in range(len(v)):
        state = state * decay[t][:, None, None]
        known = np.einsum("nk,nkv->nv", k[t], state)
        change = beta[t][:, None] * (v[t] - known)
        state = state + k[t][:, :, None] * change[:, None]
        out[t] = np.einsum("nk,nkv->nv", q[t], state)
    return out


def _convolved(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Each channel's sum over its own last inputs; `weight` is [channels, 1, size]."""
    size = weight.shape[2]
    padded = np.pad(x, ((size - 1, 0), (0, 0)))
    return sum(padded[i : i + len(x)] * weight[:, 0, i] for i in range(size))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _silu(x: np.ndarray) -> np.ndarray:
    return x * _sigmoid(x)
