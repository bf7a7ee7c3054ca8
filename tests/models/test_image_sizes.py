"""The sizes at which images are read, those of transformers, and the tokens that they say."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

from models.image_sizes import CellSizes, SquareSizes

SIDES = st.integers(1, 65_535)


@given(SIDES, SIDES, st.sampled_from([70, 140, 280, 560, 1120]))
@example(1, 65_535, 280)
@example(65_535, 1, 70)
@example(48, 48 * 280, 280)
@example(768, 768, 280)
def test_cells_are_those_of_transformers(height, width, num_tokens):
    sizes = CellSizes(48, num_tokens)
    found = sizes.size_of((height, width))
    assert found == get_aspect_ratio_preserving_size(height, width, 16, num_tokens * 9, 3)
    assert sizes.tokens_of(found) == found[0] * found[1] // 48**2


@pytest.mark.parametrize("size", [(48, 48), (48 * 20, 48 * 20), (48, 47), (0, 0)])
def test_an_image_of_another_size_is_not_read(size):
    assert CellSizes(48, 280).tokens_of(size) is None


def test_a_square_model_reads_every_image_at_its_size():
    sizes = SquareSizes(896, 256)
    assert sizes.size_of((10, 5000)) == (896, 896)
    assert sizes.tokens_of((896, 896)) == sizes.least_tokens == 256
    assert sizes.tokens_of((896, 895)) is None
