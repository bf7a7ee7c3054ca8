"""The random models that read images, and what transformers says of them, as fixtures for tests."""

from __future__ import annotations

import pytest

from tests.golden import random_models, references

NAME, CELLS = NAMES = ("gemma3-images", "gemma4-images")


@pytest.fixture(scope="module")
def name(request):
    """The model's name; a module may ask for others."""
    return getattr(request, "param", NAME)


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    """The checkpoint's folder."""
    return random_models.write(name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def reference(name):
    """Logits and greedy tokens of prompts with images."""
    return references.read(f"images/{name}")
