"""Products by kernels: the same as XLA's, and for each row the same bits whatever is beside it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.cpu_kernels.product import product, suits
from tests.models.cpu_kernels.compiled import need_kernels

# Rows, inputs, outputs: whole tiles, parts of tiles, less than a tile, several threads' parts.
SHAPES = [(1, 576, 576), (2, 64, 1024), (3, 577, 579), (5, 33, 65), (7, 1, 1), (32, 96, 4099)]
# Of the rows and of the weights.
TYPES = [
    ("bfloat16", "bfloat16"),
    ("bfloat16", "int8"),
    ("float32", "float32"),
    ("float32", "int8"),
]


@pytest.fixture(autouse=True, scope="module")
def kernels() -> None:
    need_kernels()


def draw(shape, rows_dtype="bfloat16", dtype="bfloat16", is_transposed=False):
    rows, inputs, outputs = shape
    rng = np.random.default_rng(rows * inputs + outputs)
    size = (outputs, inputs) if is_transposed else (inputs, outputs)
    weights = rng.standard_normal(size) * (40 if dtype == "int8" else 1)
    x = jnp.asarray(rng.standard_normal((rows, inputs)), rows_dtype)
    return x, jnp.asarray(weights, dtype)


def run(x, w, is_transposed=False):
    return np.asarray(
        jax.jit(product, static_argnames="is_transposed")(x, w, is_transposed=is_transposed)
    )


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize(("rows_dtype", "dtype"), TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_is_the_exact_one_up_to_rounding(shape, rows_dtype, dtype, is_transposed):
    x, w = draw(shape, rows_dtype, dtype, is_transposed)
    exact = np.asarray(w, np.float64)
    exact = np.asarray(x, np.float64) @ (exact.T if is_transposed else exact)
    assert np.abs(run(x, w, is_transposed) - exact).max() <= 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize(("rows_dtype", "dtype"), TYPES)
@pytest.mark.parametrize("shape", [(3, 577, 579), (8, 64, 96), (32, 96, 4099)], ids=str)
def test_a_row_does_not_depend_on_the_rows_beside_it(shape, rows_dtype, dtype, is_transposed):
    x, w = draw(shape, rows_dtype, dtype, is_transposed)
    alone = [run(x[i : i + 1], w, is_transposed)[0] for i in range(len(x))]
    np.testing.assert_array_equal(run(x, w, is_transposed), np.stack(alone))


def test_what_is_not_finite_stays_in_its_row():
    x, w = draw((4, 64, 96))
    broken = x.at[1, 5].set(jnp.nan).at[2, 6].set(jnp.inf)
    y, clean = run(broken, w), run(x, w)
    assert np.isnan(y[1]).all()
    assert not np.isfinite(y[2]).any()
    np.testing.assert_array_equal(y[[0, 3]], clean[[0, 3]])


def test_many_rows_and_other_types_are_left_to_xla():
    x, w = draw((32, 8, 8))
    assert suits(x, w)
    assert not suits(jnp.concatenate([x, x[:1]]), w)
    assert not suits(x, w.astype(jnp.float16))
    assert not suits(x.astype(jnp.float16), w.astype(jnp.float16))
    assert not suits(x.astype(jnp.float32), w)
