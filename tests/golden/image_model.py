"""The random model that reads images, and what transformers says of it, as fixtures for tests."""

from __future__ import annotations

import pytest

from tests.golden import random_models, references

NAME = "gemma3-images"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The checkpoint's folder."""
    return random_models.write(NAME, tmp_path_factory.mktemp(NAME))


@pytest.fixture(scope="module")
def reference():
    """Logits and greedy tokens of prompts with images."""
    return references.read(f"images/{NAME}")
