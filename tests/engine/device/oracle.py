"""The sampler in NumPy: float64, one row, the whole vocabulary, by sorting. What tests believe."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.link.sampling import SamplingParams

type Floats = NDArray[np.float64]

# Sums of weights in float32 differ by less than this part of them.
SLACK = 1e-5
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
# Below this part of the best token's weight a token falls out: a float32 holds no less.
_SMALLEST_WEIGHT = 2.0**-126


def gap(token: int, logits: Floats, *sequence: Any, **fields: Any) -> float:
    """By how much the token's score falls short of the best, wherever rounding puts the cuts."""
    both = [scores(logits, *sequence, **fields, slack=slack) for slack in (SLACK, -SLACK)]
    return min(float(found.max() - found[token]) for found in both)


def scores(
    logits: Floats,
    params: SamplingParams,
    prompt: list[int],
    output: list[int],
    *,
    position: int | None = None,
    choice: int = 0,
    stop_token_ids: frozenset[int] = frozenset(),
    slack: float = 0.0,
) -> Floats:
    """What the next token is the argmax of, noise included; -inf for what must not be drawn.

    `position` is where the token will stand: after the output, unless told.
    """
    adjusted = adjust(logits, params, prompt, output, stop_token_ids)
    if params.temperature == 0:
        return adjusted
    scaled = adjusted / params.temperature
    position = len(prompt) + len(output) if position is None else position
    noise = gumbel(params.seed, choice, position, len(logits))
    return np.where(kept(scaled, params, slack), scaled + noise, -np.inf)


def adjust(
    logits: Floats,
    params: SamplingParams,
    prompt: list[int],
    output: list[int],
    stop_token_ids: frozenset[int],
) -> Floats:
    """Logits after penalties, biases and the minimum length."""
    x = logits.astype(np.float64)
    counts = np.bincount(np.asarray(output, int), minlength=len(x))
    for token in {*prompt, *output}:
        penalty = params.repetition_penalty
        x[token] = x[token] / penalty if x[token] > 0 else x[token] * penalty
    x -= params.presence_penalty * (counts > 0) + params.frequency_penalty * counts
    for token, bias in params.logit_bias.items():
        x[token] += bias
    if len(output) < params.min_tokens:
        x[list(stop_token_ids)] = -np.inf
    return x


def kept(scaled: Floats, params: SamplingParams, slack: float = 0.0) -> NDArray[np.bool_]:
    """Which tokens min_p, then top_k, then top_p of the rest leave, with all that tie at a cut.

    `slack` moves the cuts of min_p and top_p by that part of them: up keeps more, down less.
    """
    weights = np.exp(scaled - scaled.max())
    weights[weights < max(min(params.min_p * (1 - slack), 1), _SMALLEST_WEIGHT)] = 0
    if 0 < params.top_k < np.count_nonzero(weights):
        weights[scaled < np.sort(scaled)[-params.top_k]] = 0
    top_p = params.top_p * (1 + slack) if params.top_p < 1 else 1
    if top_p < 1:
        order = np.argsort(-scaled)
        mass = np.cumsum(weights[order])
        weights[scaled < scaled[order[np.argmax(mass >= top_p * mass[-1])]]] = 0
    return weights > 0


def gumbel(seed: int, choice: int, position: int, vocab_size: int) -> Floats:
    """The noise of every token id: element v hashes (seed, choice, position, v)."""
    survival = (words(seed, choice, position, vocab_size) + 0.5) * 2.0**-32
    return -np.log(-np.log1p(-survival))


def words(seed: int, choice: int, position: int, vocab_size: int) -> NDArray[np.uint32]:
    """The hash that a token's noise comes from: 32 bits for every id."""
    seed_words = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
    key = np.array(threefry(seed_words, np.uint32(choice), np.uint32(position)))
    pairs = np.arange(-(-vocab_size // 2), dtype=np.uint32)
    return np.stack(threefry(key, pairs, np.zeros_like(pairs)), axis=1).reshape(-1)[:vocab_size]


def threefry(
    key: NDArray[np.uint32], first: NDArray[np.uint32], second: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Threefry-2x32 in 20 rounds (Salmon et al., 2011): two words from two counters."""
    with np.errstate(over="ignore"):
        keys = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
        x, y = first + keys[0], second + keys[1]
        for round_ in range(5):
            for bits in _ROTATIONS[round_ % 2]:
                x = x + y
                y = ((y << np.uint32(bits)) | (y >> np.uint32(32 - bits))) ^ x
            x = x + keys[(round_ + 1) % 3]
            y = y + keys[(round_ + 2) % 3] + np.uint32(round_ + 1)
    return x, y
