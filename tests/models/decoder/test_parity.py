"""Our model code against Hugging Face transformers, in float32, over the paged pool.

Logits may differ by 1e-4 of the position's largest; a greedy token only where the reference's two
best candidates lie within 1e-3. The references are made by `make golden`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models import demo
from models.huggingface.config_file import parse_config
from tests.golden import random_models, references
from tests.models.cpu_kernels.compiled import need_kernels
from tests.models.paged import PagedModel

LOGIT_TOLERANCE = 1e-4
MARGIN = 1e-3
# What differs by layer, by expert or by name is computed on every mesh and in both layouts.
EVERYWHERE = [
    "gpt-oss",
    "gemma2",
    "gemma3",
    "gemma4",
    "gemma4-moe",
    "mistral-window",
    "qwen2-mixed-window",
    "qwen3-moe",
    "qwen3_5",
    "qwen3_5-moe",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder a name stands for; made when it is not part of the repository."""

    def folder(name: str) -> Path:
        if name in random_models.CONFIGS:
            return random_models.write(name, tmp_path_factory.mktemp(name))
        if name.startswith("tiny-"):
            return Path("models/tiny") / name.removeprefix("tiny-")
        return demo.ensure()

    return folder


def greedy_differences(model, logits, reference):
    """Decode with the reference's tokens as input; the margins where ours chose another.

    Fed with the reference's tokens, a step is compared whatever an earlier close call gave.
    """
    best = np.stack([rows[-1].argmax() for rows in logits])
    margins = []
    for step in range(reference.greedy_ids.shape[1]):
        expected = reference.greedy_ids[:, step]
        margins += reference.margins[best != expected, step].tolist()
        best = model.decode(expected).argmax(1)
    return margins


def check(folder, name, record_property, **layout):
    reference = references.read(name)
    max_tokens = max(map(len, reference.prompts)) + reference.greedy_ids.shape[1]
    model = PagedModel(folder, len(reference.prompts), max_tokens, **layout)
    logits = model.prefill(reference.prompts)
    assert reference.error(logits) <= LOGIT_TOLERANCE
    margins = greedy_differences(model, logits, reference)
    record_property("greedy_differences", len(margins))
    print(f"{name}: {len(margins)} of {reference.greedy_ids.size} greedy tokens differ: {margins}")
    assert all(margin < MARGIN for margin in margins)


@pytest.mark.parametrize("name", sorted(set(references.names()) - set(EVERYWHERE)))
def test_logits_and_greedy_tokens_agree(checkpoint, name, record_property):
    check(checkpoint(name), name, record_property)


@pytest.mark.parametrize(
    ("tensor_size", "stacked"),
    [(1, False), (2, True), (4, True)],
    ids=["1-listed", "2-stacked", "4-stacked"],
)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_every_mesh_and_layout_agrees(checkpoint, name, tensor_size, stacked, record_property):
    check(checkpoint(name), name, record_property, tensor_size=tensor_size, stacked=stacked)


@pytest.mark.parametrize("name", ["llama3-untied", "qwen3"])
def test_stacked_layers_agree_too(checkpoint, name, record_property):
    check(checkpoint(name), name, record_property, stacked=True)


@pytest.mark.parametrize(
    ("name", "tensor_size"),
    [("llama3-untied", 2), ("llama3-untied", 4), ("llama3-untied", 8), ("llama3-tied", 4)],
)
def test_every_mesh_agrees(checkpoint, name, tensor_size, record_property):
    check(checkpoint(name), name, record_property, tensor_size=tensor_size)


@pytest.mark.parametrize(
    ("name", "tensor_size"),
    [
        ("llama3-untied", 1),
        ("llama3-untied", 2),
        ("qwen3", 1),
        ("gemma2", 1),
        ("gemma3", 2),
        ("gpt-oss", 1),
        ("mistral-window", 1),
        ("qwen3_5", 1),
        ("tiny-1", 1),
    ],
)
def test_the_kernels_for_cpu_agree(checkpoint, name, tensor_size, record_property):
    need_kernels()
    check(checkpoint(name), name, record_property, tensor_size=tensor_size, cpu_kernels=True)


@pytest.mark.parametrize("name", random_models.CONFIGS)
def test_the_config_that_transformers_writes_is_the_same_model(name):
    saved = parse_config(references.saved_config(name))
    assert saved == parse_config(random_models.CONFIGS[name])


def test_every_reference_is_large_enough():
    for name in references.names():
        reference = references.read(name)
        assert len(reference.prompts) >= 20, name
        assert reference.greedy_ids.shape == (len(reference.prompts), 64)


def test_random_checkpoints_are_the_same_everywhere():
    """Another machine's NumPy must not make other weights than those of the references."""
    embedding = random_models.weights("qwen2")["model.embed_tokens.weight"]
    expected = [-0.9720818996429443, 0.7485966682434082, -0.49848735332489014]
    assert embedding[0, :3].tolist() == expected
    assert random_models.prompts("qwen2")[1] == [362, 309, 205]
    assert random_models.prompts("gemma2")[1] == [172, 490, 202]
