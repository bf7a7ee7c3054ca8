"""A whole Gemma 3 with images against Hugging Face transformers, in float32, on several meshes.

The references are made by `make golden`; tolerances are those of the text models. Eight shards do
not divide the heads of the tower, so each has all of it.
"""

from __future__ import annotations

import numpy as np
import pytest

from models.vision.step_images import StepImages
from tests.golden import image_model, random_models, references
from tests.golden.image_model import NAME
from tests.models.decoder.test_parity import LOGIT_TOLERANCE, MARGIN, greedy_differences
from tests.models.paged import PagedModel

folder, reference = image_model.folder, image_model.reference


def step_images(model, starts, order=None):
    """The images of all prompts, in one step that has the prompts one after another."""
    prompts = references.read(f"images/{NAME}").prompts
    first = np.cumsum([0, *map(len, prompts)])[:-1]
    places = [start + f for f, each in zip(first, starts, strict=True) for start in each]
    rows = [model.encode(pixels) for pixels in random_models.pixels(NAME, len(places))]
    return StepImages(np.stack([rows[i] for i in order or range(len(rows))]), np.array(places))


@pytest.fixture(scope="module")
def starts():
    return [each for _, each in random_models.prompts_with_images(NAME)]


def make_model(folder, reference, **layout):
    max_tokens = max(map(len, reference.prompts)) + reference.greedy_ids.shape[1]
    return PagedModel(folder, len(reference.prompts), max_tokens, **layout)


@pytest.mark.parametrize(
    ("tensor_size", "stacked"),
    [(1, False), (2, True), (4, True), (8, False)],
    ids=["1-listed", "2-stacked", "4-stacked", "8-listed"],
)
def test_logits_and_greedy_tokens_agree(folder, reference, starts, tensor_size, stacked):
    model = make_model(folder, reference, tensor_size=tensor_size, stacked=stacked)
    logits = model.prefill(reference.prompts, step_images(model, starts))
    assert reference.error(logits) <= LOGIT_TOLERANCE
    assert all(margin < MARGIN for margin in greedy_differences(model, logits, reference))


def test_the_reference_depends_on_which_image_is_where(folder, reference, starts):
    """Else the agreement above would say nothing about the rows."""
    model = make_model(folder, reference)
    count = sum(map(len, starts))
    swapped = step_images(model, starts, order=[*range(1, count), 0])
    assert reference.error(model.prefill(reference.prompts, swapped)) > 100 * LOGIT_TOLERANCE
    assert reference.error(model.prefill(reference.prompts)) > 100 * LOGIT_TOLERANCE


def test_a_mask_that_is_only_causal_would_be_noticed(folder, reference, starts, monkeypatch):
    monkeypatch.setattr(StepImages, "last_seen", lambda self, positions_T: positions_T)
    model = make_model(folder, reference)
    logits = model.prefill(reference.prompts, step_images(model, starts))
    assert reference.error(logits) > 100 * LOGIT_TOLERANCE
