"""The naive decoder against transformers; and the references against mistakes.

A reference proves something only if a missing norm or a wrong window would show in it.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.golden import random_models, references
from tests.golden.configs import CONFIGS
from tests.models import naive

TOLERANCE = 1e-5
# A steep router, or a state from token to token, carries transformers' float32 rounding further.
TOLERANCES = {"gpt-oss": 2e-5, "qwen3_5": 3e-5, "qwen3_5-moe": 3e-5}
MARGIN = 1e-4
# Twice what a decoder may be off, at half of all positions or more.
VISIBLE = 2e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_the_naive_decoder_computes_what_transformers_does(name):
    reference = references.read(name)
    reading, weights = naive.read(CONFIGS[name]), random_models.weights(name)
    logits = []
    for prompt, greedy, margins in zip(
        reference.prompts, reference.greedy_ids, reference.margins, strict=True
    ):
        rows = naive.logits(reading, weights, prompt + greedy.tolist())
        logits.append(rows[: len(prompt)])
        best = rows[len(prompt) - 1 : -1].argmax(1)
        assert np.all(margins[best != greedy] < MARGIN)
    assert reference.error(logits) < TOLERANCES.get(name, TOLERANCE)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_spelling_of_transformers_means_the_same(name):
    weights, prompt = random_models.weights(name), random_models.prompts(name)[17]
    published = naive.forward(CONFIGS[name], weights, prompt)
    saved = naive.forward(references.saved_config(name), weights, prompt)
    assert_allclose(saved, published, rtol=0, atol=1e-9)


def change(name, reading, weights):
    """How far off a mistake puts the median position's logits, in parts of its largest."""
    prompt = random_models.prompts(name)[17]
    right = naive.forward(CONFIGS[name], random_models.weights(name), prompt)
    wrong = naive.logits(reading, weights, prompt)
    return np.median(np.abs(wrong - right).max(1) / np.abs(right).max(1))


GEMMA = {
    "norms by the weight alone": lambda r: {"norm_offset": 0.0},
    "an unscaled embedding": lambda r: {"embedding_scale": 1.0},
    "an embedding scaled by the root in bfloat16": lambda r: {"embedding_scale": 9.8125},
    "queries scaled by the head size": lambda r: {"query_scale": 16**-0.5},
    "queries scaled by hidden size over heads": lambda r: {"query_scale": 12**-0.5},
    "silu": lambda r: {"activation": "silu"},
    "the exact gelu": lambda r: {"activation": "gelu"},
}
WINDOWS = {
    "no windows": lambda r: {"windows": [None for _ in r.windows]},
    "windows everywhere": lambda r: {"windows": [max(w or 0 for w in r.windows)] * len(r.windows)},
    "windows one wider": lambda r: {"windows": [w and w + 1 for w in r.windows]},
    "windows one narrower": lambda r: {"windows": [w and w - 1 for w in r.windows]},
    "windows one layer on": lambda r: {"windows": [*r.windows[-1:], *r.windows[:-1]]},
}
ROPES = {
    "the local rope everywhere": lambda r: {"frequencies": [r.frequencies[0] for _ in r.windows]},
    "the global rope everywhere": lambda r: {"frequencies": [r.frequencies[5] for _ in r.windows]},
    "no scaling": lambda r: {"frequencies": scaled(r, on_local=1, on_global=8)},
    "scaling everywhere": lambda r: {"frequencies": scaled(r, on_local=1 / 8, on_global=1)},
}
GEMMA4 = {
    name: GEMMA[name]
    for name in ("an unscaled embedding", "silu", "queries scaled by the head size")
} | {
    "values that are not normed": lambda r: {"value_norm": False},
    "no cap on logits": lambda r: {"logit_cap": None},
    "pairs that all turn": lambda r: {"frequencies": [turning(each) for each in r.frequencies]},
    "pairs as of a smaller head": lambda r: {"frequencies": [steeper(f) for f in r.frequencies]},
}
HYBRID = {
    "norms by the weight alone": GEMMA["norms by the weight alone"],
    "fewer key heads": lambda r: {"num_key_heads": 2},
    "heads that turn whole": lambda r: {"frequencies": [500.0 ** (-np.arange(16) / 16)] * 7},
}
MISTAKES = {
    "gemma4": GEMMA4 | WINDOWS,
    # The sum of its experts is normed, so that a common factor of their shares does not show.
    "gemma4-moe": GEMMA4 | WINDOWS | {"one expert": lambda r: {"experts_per_token": 1}},
    "gemma4-unified": GEMMA4 | WINDOWS,
    "gemma2": GEMMA
    | WINDOWS
    | {
        "no cap on attention": lambda r: {"attention_cap": None},
        "no cap on logits": lambda r: {"logit_cap": None},
    },
    "qwen3_5": HYBRID,
    "qwen3_5-moe": HYBRID
    | {
        "one expert": lambda r: {"experts_per_token": 1},
        "shares of all experts": lambda r: {"renormalise": False},
    },
    "gemma3": GEMMA | WINDOWS | ROPES,
    "gemma3-vlm": GEMMA | WINDOWS | ROPES,
    "qwen2-mixed-window": WINDOWS,
    "mistral-window": {
        name: WINDOWS[name] for name in ("no windows", "windows one wider", "windows one narrower")
    },
    "ministral3": {
        "queries that do not grow": lambda r: {"query_growth": (0.0, 8)},
        "queries that grow one position late": lambda r: {"query_growth": (0.1, 9)},
    },
    "gpt-oss": WINDOWS
    | {
        "one expert": lambda r: {"experts_per_token": 1},
        "shares of all experts": lambda r: {"renormalise": False},
        "queries as long as they were": lambda r: {"query_scale": 16**-0.5},
    },
    "qwen3-moe": {
        "one expert": lambda r: {"experts_per_token": 1},
        "three experts": lambda r: {"experts_per_token": 3},
        "shares of all experts": lambda r: {"renormalise": False},
    },
}


def scaled(reading, on_local, on_global):
    pairs = zip(reading.windows, reading.frequencies, strict=True)
    return [frequencies * (on_local if window else on_global) for window, frequencies in pairs]


def turning(frequencies):
    """The frequencies of a head whose every pair turns."""
    return 2000.0 ** (-np.arange(16) / 16) if not frequencies.all() else frequencies


def steeper(frequencies):
    """The exponent over the turning part of the head alone."""
    return np.sign(frequencies) * frequencies**4 if not frequencies.all() else frequencies


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        pytest.param(name, mistake, id=f"{name}-{what}")
        for name, mistakes in MISTAKES.items()
        for what, mistake in mistakes.items()
    ],
)
def test_a_mistake_shows(name, mistake):
    reading = naive.read(CONFIGS[name])
    assert change(name, replace(reading, **mistake(reading)), random_models.weights(name)) > VISIBLE


@pytest.mark.parametrize("name", CONFIGS)
def test_a_norm_bias_or_sink_that_is_left_out_shows(name):
    reading, weights = naive.read(CONFIGS[name]), random_models.weights(name)
    kinds = {kind(weight) for weight in weights if is_norm_or_bias(weight)}
    assert len(kinds) >= 3
    for left_out in kinds:
        is_factor = any(part in left_out for part in ("norm", "scal"))
        has_offset = reading.norm_offset and "linear_attn" not in left_out
        neutral = float(is_factor and not has_offset)
        neutral = -1e9 if "sinks" in left_out else neutral
        without = {
            weight: np.full_like(values, neutral) if kind(weight) == left_out else values
            for weight, values in weights.items()
        }
        assert change(name, reading, without) > VISIBLE, left_out


def kind(weight):
    return re.sub(r"\.\d+\.", ".", weight)


def is_norm_or_bias(weight):
    of_text = not any(
        part in weight for part in ("vision_", "multi_modal_projector.", "embed_", "mtp.")
    )
    parts = ("norm", "bias", "sinks", "scalar", "router.scale", "per_expert_scale")
    return of_text and any(part in weight for part in parts)


@pytest.mark.parametrize("name", ["qwen3-moe", "gpt-oss", "gemma4-moe"])
def test_no_choice_of_experts_is_close(name, monkeypatch):
    """Rounding must not send a token to another expert: all its logits would differ."""
    gaps, chosen = [], []

    def route(reading, scores):
        ranked = np.sort(scores)
        last = -reading.experts_per_token
        gaps.append(ranked[:, last] - ranked[:, last - 1])
        chosen.append(naive_route(reading, scores).sum(0) > 0)
        return naive_route(reading, scores)

    naive_route = naive.route
    monkeypatch.setattr(naive, "route", route)
    reference, weights = references.read(name), random_models.weights(name)
    for prompt, greedy in zip(reference.prompts, reference.greedy_ids, strict=True):
        naive.forward(CONFIGS[name], weights, prompt + greedy.tolist())
    assert np.min(np.concatenate(gaps)) > 2e-5
    assert np.all(np.any(chosen, axis=0))
