"""Eight bits: what they cost in digits, and in the loss of a real model."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tokenizers import Tokenizer

from models.decoder.quantization import column_scales, kv_scale, quantize_columns, quantize_kv
from tests.golden import random_models, references
from tests.models.paged import PagedModel

INT8, FP8 = jnp.dtype(jnp.int8), jnp.dtype(jnp.float8_e4m3fn)
TINY = Path("models/tiny/1")


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class TestMatrices:
    def test_a_column_is_off_by_half_a_unit_at_most(self):
        w = random(64, 32) * np.geomspace(1e-3, 1e3, 32, dtype=np.float32)
        restored = quantize_columns(w).astype(np.float32) * column_scales(w)
        assert np.all(np.abs(restored - w) <= 0.501 * column_scales(w))

    def test_the_largest_of_a_column_is_127_units(self):
        w = random(64, 32)
        assert_array_equal(np.abs(quantize_columns(w)).max(0), 127)

    def test_a_column_of_zeros_stays_one(self):
        w = random(8, 3)
        w[:, 1] = 0
        assert_array_equal(quantize_columns(w)[:, 1], 0)
        assert column_scales(w)[1] == 1

    def test_a_stack_is_done_matrix_by_matrix(self):
        w = random(5, 8, 3)
        assert_array_equal(quantize_columns(w)[2], quantize_columns(w[2]))
        assert_array_equal(column_scales(w)[2], column_scales(w[2]))


class TestKeysAndValues:
    @pytest.mark.parametrize(("dtype", "error"), [(INT8, 0.006), (FP8, 0.04)])
    def test_what_calibration_saw_is_kept_closely(self, dtype, error):
        kv = random(50, 3, 2, 16)
        units = kv_scale(np.abs(kv).max((0, 3)), dtype)
        restored = np.asarray(quantize_kv(jnp.asarray(kv), units, dtype), np.float32)
        restored = restored * units[..., None]
        assert np.abs(restored - kv).max() <= error * np.abs(kv).max()

    @pytest.mark.parametrize("dtype", [INT8, FP8])
    def test_what_is_far_out_is_cut_off_and_finite(self, dtype):
        units = np.ones((1, 2), np.float32)
        kv = jnp.asarray([[[[1e9], [-1e9]]]], jnp.float32)
        out = np.asarray(quantize_kv(kv, units, dtype), np.float32).ravel()
        assert out[0] == -out[1]
        assert_array_equal(out, [127, -127] if dtype == INT8 else [448, -448])

    def test_a_head_that_is_always_zero_has_unit_one(self):
        assert_array_equal(kv_scale(np.zeros((2, 2)), INT8), 1)


def held_out_loss(text, **layout):
    """Nats a token over the text, in pieces side by side."""
    ids = Tokenizer.from_file(str(TINY / "tokenizer.json")).encode(text).ids[:2048]
    pieces = [ids[i : i + 256] for i in range(0, len(ids), 256)]
    model = PagedModel(TINY, len(pieces), 256, **layout)
    losses = []
    for piece, logits in zip(pieces, model.prefill(pieces), strict=True):
        logits = logits[:-1].astype(np.float64)
        top = logits.max(-1, keepdims=True)
        normalizer = top[:, 0] + np.log(np.exp(logits - top).sum(-1))
        losses += (normalizer - logits[np.arange(len(logits)), piece[1:]]).tolist()
    return float(np.mean(losses))


@pytest.fixture(scope="module")
def text():
    """A file that the model was not trained on: written for this project."""
    return Path("server/engine/policy/scheduler.py").read_text()


@pytest.mark.parametrize(
    "layout", [{}, {"tensor_size": 4, "stacked": True}], ids=["listed", "stacked-4"]
)
def test_heads_of_every_size_get_units_of_their_own(tmp_path, layout):
    """Gemma 4's heads: with the units of other layers, the logits would be far off."""
    reference = references.read("gemma4")
    folder = random_models.write("gemma4", tmp_path)
    model = PagedModel(folder, len(reference.prompts), 192, kv_dtype=INT8, **layout)
    assert reference.error(model.prefill(reference.prompts)) < 0.08


@pytest.fixture(scope="module")
def plain_loss(text):
    return held_out_loss(text)


@pytest.mark.parametrize(
    "layout",
    [
        {"quantized": True},
        {"kv_dtype": FP8},
        {"kv_dtype": INT8},
        {"quantized": True, "kv_dtype": FP8},
        {"quantized": True, "kv_dtype": INT8, "tensor_size": 4, "stacked": True},
    ],
    ids=["int8", "fp8-kv", "int8-kv", "int8+fp8-kv", "int8+int8-kv-stacked-4"],
)
def test_the_loss_is_at_most_one_percent_worse(text, plain_loss, layout, record_property):
    loss = held_out_loss(text, **layout)
    record_property("loss_ratio", loss / plain_loss)
    assert_allclose(loss, plain_loss, rtol=0.01)
