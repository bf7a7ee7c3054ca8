"""A whole model with the kernels: the same logits as with XLA, and the same bits in every batch."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.models.cpu_kernels.compiled import need_kernels
from tests.models.paged import PagedModel

TINY = Path("models/tiny/1")
# A sequence for each row, decoded from its first token on.
TOKENS = np.random.default_rng(0).integers(3, 3000, (24, 5)).astype(np.int32)


@pytest.fixture(autouse=True, scope="module")
def kernels() -> None:
    need_kernels()


def decoded(rows, **layout):
    """Logits [steps, rows, V] of these rows' sequences, side by side."""
    model = PagedModel(TINY, rows.stop - rows.start, 64, **layout)
    return np.stack([model.decode(step[rows]) for step in TOKENS])


@pytest.mark.parametrize("layout", [{}, {"quantized": True}], ids=["float32", "int8"])
def test_logits_are_those_of_xla(layout):
    ours = decoded(slice(0, 5), cpu_kernels=True, **layout)
    xla = decoded(slice(0, 5), **layout)
    assert np.abs(ours - xla).max() < 1e-4 * np.abs(xla).max()


@pytest.mark.parametrize(
    "layout",
    [{}, {"dtype": jnp.dtype("bfloat16")}, {"quantized": True, "dtype": jnp.dtype("bfloat16")}],
    ids=["float32", "bfloat16", "int8"],
)
def test_a_sequence_has_the_same_bits_alone_and_beside_others(layout):
    together = decoded(slice(0, 5), cpu_kernels=True, **layout)
    for row in (0, 3):
        alone = decoded(slice(row, row + 1), cpu_kernels=True, **layout)
        assert_array_equal(alone[:, 0], together[:, row])
