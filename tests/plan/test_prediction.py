"""What a prediction says that it leaves out."""

from __future__ import annotations

import pytest

from models.presets import load_preset
from server.plan.prediction import leaves_out
from server.plan.request import blueprint_for
from tests.plan.reports import program


@pytest.fixture
def sentences(ask):
    """What is left out of a decode of 64 and a prefill of so many tokens of a preset."""

    def make(preset, tokens):
        request = ask("v6e:2x2", load_preset(preset).config, 2048, tensor_parallel_size=4)
        steps = [program(), program("mixed", tokens=tokens)]
        return leaves_out(blueprint_for(request), request.slice.chip, steps, 64)

    return make


def test_grouped_products_of_experts_are_named_with_the_time_to_read_the_experts(sentences):
    """A fourth of 48 layers of 128 experts of 3 x 2048 x 768 numbers, 14.5 GB at 1,640 GB/s."""
    found = [one for one in sentences("qwen3-30b-a3b", 2048) if "grouped products" in one]
    assert len(found) == 1
    assert "prefill 8.84 ms" in found[0]


@pytest.mark.parametrize(("preset", "tokens"), [("qwen3-30b-a3b", 256), ("llama-3.1-8b", 2048)])
def test_steps_without_grouped_products_name_none(sentences, preset, tokens):
    assert not [one for one in sentences(preset, tokens) if "grouped products" in one]
