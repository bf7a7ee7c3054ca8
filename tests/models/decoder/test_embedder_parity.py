"""A model that makes embeddings against transformers and sentence-transformers' mathematics.

No number of a vector of length one may differ by 1e-5. The reference is made by `make golden`.
"""

from __future__ import annotations

import numpy as np
import pytest

from server.api.embeddings.embedding_recipe import read_recipe
from server.api.requests.embedding import pool
from tests.golden import random_models, references
from tests.models.paged import PagedModel

CLOSE = 1e-5
NAME = "embeddinggemma"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_models.write(NAME, tmp_path_factory.mktemp(NAME))


@pytest.mark.parametrize(("tensor_size", "stacked"), [(1, False), (2, True)])
def test_vectors_agree_on_every_mesh_and_layout(folder, tensor_size, stacked):
    """All prompts run in one step, so that rows of many lengths lie side by side."""
    reference, recipe = references.read_vectors(NAME), read_recipe(folder, "auto")
    model = PagedModel(
        folder,
        len(reference.prompts),
        max(map(len, reference.prompts)),
        tensor_size=tensor_size,
        stacked=stacked,
        gives_states=True,
    )
    for states, vector in zip(model.prefill(reference.prompts), reference.vectors, strict=True):
        parts = [states.sum(axis=0).astype("<f4").tobytes()]
        found = pool(
            parts,
            len(states),
            recipe.pooling,
            layers=recipe.dense,
            dimensions=None,
            normalizes=recipe.normalizes,
        )
        assert np.abs(found - vector).max() < CLOSE
