"""The engine on a model whose tokens see later tokens: vectors are the reference's, in any step."""

from __future__ import annotations

import numpy as np
import pytest

from server.api.embeddings.embedding_recipe import read_recipe
from server.api.requests.embedding import pool
from server.config.setting import ConfigError
from server.link.sampling import SamplingParams
from tests.engine.device.test_identity import Request, Session, build
from tests.golden import random_models, references

NAME, BUDGET = "embeddinggemma", 32
SIZES = {"max_num_seqs": 2, "max_num_batched_tokens": BUDGET}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_models.write(NAME, tmp_path_factory.mktemp(NAME))


def test_prompts_that_do_not_fit_into_one_step_are_never_cut(folder):
    reference, recipe = references.read_vectors(NAME), read_recipe(folder, "auto")
    runner, config = build(folder, **SIZES)
    assert runner.max_model_len == BUDGET
    chosen = [i for i, prompt in enumerate(reference.prompts) if len(prompt) <= BUDGET]
    nothing = SamplingParams(max_tokens=0)
    requests = [Request(reference.prompts[i], nothing, pooling="mean") for i in chosen]
    session = Session(runner, config)
    # Twice, so that the second time every prefix has been computed before.
    for _ in range(2):
        session.run(requests)
        for event in (event for frame in session.frames for event in frame.events):
            index = chosen[event.request_id]
            found = pool(
                event.pooled,
                len(reference.prompts[index]),
                "mean",
                layers=recipe.dense,
                dimensions=None,
                normalizes=True,
            )
            assert event.num_cached_tokens == 0
            assert np.abs(found - reference.vectors[index]).max() < 1e-5


@pytest.mark.parametrize("settings", [{"exact": True}, {"speculation": "prompt_lookup"}])
def test_what_only_generation_needs_is_refused(folder, settings):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} is for models that generate"):
        build(folder, **SIZES | settings)
