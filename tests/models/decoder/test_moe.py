"""Experts, few tokens and many: all forms give the same, on every mesh, stacked or not."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from numpy.testing import assert_allclose

from models.decoder import moe
from models.decoder.moe import Moe
from models.decoder.parallel import Residual
from models.huggingface.config_file import parse_config
from models.sharding import TENSOR, make_mesh, partition_spec
from tests.models.checkpoints import LLAMA
from tests.models.paged import make_layout

MOE = LLAMA | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
}
# Layers of two kinds alternate, so that a stacked model has both forms of a dense product.
CONFIG = replace(parse_config(MOE), layer_windows=(8, None))
TOKENS = 40


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((TOKENS, CONFIG.hidden_size)).astype(np.float32)


def output(x, *, tensor_size=1, is_stacked=False, is_split=False, quantized=False, config=CONFIG):
    """The layer's output on a mesh; stacked, of the middle one of three layers."""
    layout = make_layout(tensor_size=tensor_size, quantized=quantized, stacked=is_stacked)
    graphdef, state = nnx.split(Moe(nnx.Rngs(3), config, layout))
    leaves, treedef = jax.tree.flatten(state)
    # Biases are made as zeros, which would be lost unseen.
    leaves = [leaf + jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape) / 8
              if not np.any(leaf) else leaf for leaf in leaves]  # fmt: skip
    axes = [leaf.get_metadata("logical_axes") for _, leaf in nnx.to_flat_state(state)]
    paths = [path for path, _ in nnx.to_flat_state(state)]
    if is_stacked:
        leaves = [
            jnp.stack([leaf * 0, leaf, leaf * 0]) if "experts" in path else leaf
            for path, leaf in zip(paths, leaves, strict=True)
        ]
        axes = [
            ("layers", *a) if "experts" in path else a for path, a in zip(paths, axes, strict=True)
        ]

    def run(leaves, x, norm):
        module = nnx.merge(graphdef, jax.tree.unflatten(treedef, leaves))
        residual = Residual(is_split)
        return module(x, norm, residual, jnp.int32(1) if is_stacked else None)

    mapped = jax.shard_map(
        run,
        mesh=make_mesh(CONFIG, tensor_size),
        in_specs=([partition_spec(a) for a in axes], PartitionSpec(), PartitionSpec()),
        out_specs=PartitionSpec(TENSOR) if is_split else PartitionSpec(),
        check_vma=False,
    )
    norm = np.linspace(0.5, 2, TOKENS, dtype=np.float32)[:, None]
    return np.asarray(jax.jit(mapped)(leaves, x, norm))


@pytest.fixture(scope="module")
def expected(x):
    """Token by token and expert by expert, in float64."""
    layer = Moe(nnx.Rngs(3), CONFIG, make_layout())
    router, gate_up, down = (
        np.asarray(w[...], np.float64)
        for w in (layer.router, layer.experts.gate_up, layer.experts.down)
    )
    out = np.zeros(x.shape)
    for t, scale in enumerate(np.linspace(0.5, 2, TOKENS)):
        token = x[t] * scale
        logits = token @ router
        weights = np.exp(logits - logits.max())
        best = np.argsort(-weights)[:3]
        for e in best:
            gate, up = np.split(token @ gate_up[e], 2)
            out[t] += weights[e] / weights[best].sum() * (gate / (1 + np.exp(-gate)) * up) @ down[e]
    return out


@pytest.fixture(params=["dense", "batch", "grouped", "in turns"])
def form(request, monkeypatch):
    """Each output is of a function of its own, so the form is read anew.

    In turns: a shard takes fewer rows at a time than it has, and the last turn is not full.
    """
    is_grouped = request.param in ("grouped", "in turns")
    monkeypatch.setattr(moe, "DENSE_TOKENS", 0 if is_grouped else TOKENS)
    if request.param == "in turns":
        monkeypatch.setattr(moe, "_MARGIN", 0.3)
        monkeypatch.setattr(moe, "_TILE", 7)
    monkeypatch.setattr(moe, "_COPIED_TOKENS", TOKENS if request.param == "batch" else TOKENS + 1)
    return request.param


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("tensor_size", [1, 2, 4])
@pytest.mark.parametrize("is_stacked", [False, True], ids=["alone", "stacked"])
def test_the_output_is_the_weighted_sum_of_the_best_experts(x, expected, tensor_size, is_stacked):
    out = output(x, tensor_size=tensor_size, is_stacked=is_stacked)
    assert_allclose(out, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.usefixtures("form")
def test_a_split_residual_stream_gets_its_tokens(x, expected):
    assert_allclose(output(x, tensor_size=4, is_split=True), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("is_stacked", [False, True], ids=["alone", "stacked"])
def test_int8_experts_run_in_every_form(x, is_stacked):
    out = output(x, tensor_size=2, is_stacked=is_stacked, quantized=True)
    alone = output(x, quantized=True)
    assert np.abs(alone).max() > 0
    assert_allclose(out, alone, atol=1e-6, rtol=1e-3)


def test_biases_are_those_of_a_rows_expert_in_every_form(x, monkeypatch):
    config = replace(CONFIG, moe=replace(CONFIG.moe, biases=True), activation="clamped_silu")
    dense = output(x, config=config)
    assert np.abs(dense - output(x, config=replace(CONFIG, activation="clamped_silu"))).max() > 0.01
    monkeypatch.setattr(moe, "DENSE_TOKENS", 0)
    assert_allclose(output(x, config=config), dense, atol=1e-6, rtol=1e-4)
    monkeypatch.setattr(moe, "_MARGIN", 0.3)
    monkeypatch.setattr(moe, "_TILE", 7)
    assert_allclose(output(x, config=config, tensor_size=2), dense, atol=1e-6, rtol=1e-4)
