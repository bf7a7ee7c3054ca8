"""Whole models with images against Hugging Face transformers, in float32, on several meshes.

The references are made by `make golden`; tolerances are those of the text models. Eight shards do
not divide the heads of the towers, so each has all of it.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from models.config import CellVisionConfig
from models.vision.step_images import StepImages
from tests.golden import image_model, random_models
from tests.golden.image_model import CELLS, NAMES
from tests.models.decoder.test_parity import LOGIT_TOLERANCE, MARGIN, greedy_differences
from tests.models.paged import PagedModel

name, folder, reference = image_model.name, image_model.folder, image_model.reference
BOTH = pytest.mark.parametrize("name", NAMES, indirect=True)
OF_CELLS = pytest.mark.parametrize("name", [CELLS], indirect=True)


def step_images(model, name, reference):
    """The images of all prompts, in one step that has the prompts one after another."""
    first = np.cumsum([0, *map(len, reference.prompts)])[:-1]
    starts = [each for _, each in random_models.prompts_with_images(name)]
    places = [start + f for f, each in zip(first, starts, strict=True) for start in each]
    rows = [model.encode(pixels) for pixels in random_models.pixels(name, len(places))]
    sizes = [int(np.prod(random_models.grid(name, i))) for i in range(len(rows))]
    # Every row after an image's tokens is one that nothing may read.
    rows = [
        np.where(np.arange(len(r))[:, None] < n, r, np.nan)
        for r, n in zip(rows, sizes, strict=True)
    ]
    return StepImages(np.stack(rows), np.array(places), np.array(sizes))


def make_model(folder, reference, **layout):
    max_tokens = max(map(len, reference.prompts)) + reference.greedy_ids.shape[1]
    return PagedModel(folder, len(reference.prompts), max_tokens, **layout)


@BOTH
@pytest.mark.parametrize(
    ("tensor_size", "stacked"),
    [(1, False), (2, True), (4, True), (8, False)],
    ids=["1-listed", "2-stacked", "4-stacked", "8-listed"],
)
def test_logits_and_greedy_tokens_agree(name, folder, reference, tensor_size, stacked):
    model = make_model(folder, reference, tensor_size=tensor_size, stacked=stacked)
    logits = model.prefill(reference.prompts, step_images(model, name, reference))
    assert reference.error(logits) <= LOGIT_TOLERANCE
    assert all(margin < MARGIN for margin in greedy_differences(model, logits, reference))


@BOTH
def test_the_reference_depends_on_which_image_is_where(name, folder, reference):
    """Else the agreement above would say nothing about the rows."""
    model = make_model(folder, reference)
    images = step_images(model, name, reference)
    count = len(images.rows_MND)
    rows = np.nan_to_num(images.rows_MND)[[*range(1, count), 0]]
    swapped = model.prefill(reference.prompts, images._replace(rows_MND=rows))
    assert reference.error(swapped) > 100 * LOGIT_TOLERANCE
    assert reference.error(model.prefill(reference.prompts)) > 100 * LOGIT_TOLERANCE


@BOTH
def test_a_mask_that_is_only_causal_would_be_noticed(name, folder, reference, monkeypatch):
    monkeypatch.setattr(StepImages, "last_seen", lambda self, positions_T: positions_T)
    model = make_model(folder, reference)
    logits = model.prefill(reference.prompts, step_images(model, name, reference))
    assert reference.error(logits) > 100 * LOGIT_TOLERANCE


@OF_CELLS
def test_images_that_see_themselves_in_global_layers_too_would_be_noticed(
    name, folder, reference, monkeypatch
):
    monkeypatch.setattr(CellVisionConfig, "sees_image", lambda self, window: True)
    # What was traced of a layer is kept by its configuration, which is the same.
    jax.clear_caches()
    model = make_model(folder, reference)
    logits = model.prefill(reference.prompts, step_images(model, name, reference))
    jax.clear_caches()
    assert reference.error(logits) > 100 * LOGIT_TOLERANCE
