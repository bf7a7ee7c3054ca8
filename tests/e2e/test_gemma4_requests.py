"""Chats with a server of Gemma 4: images of their own sizes, and calls that a grammar enforces."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from models.vision.step_images import StepImages
from tests.api.images.pictures import data_url, file_of, picture
from tests.e2e.checkpoints import GEMMA4_TOKENS, write_gemma4_checkpoint
from tests.e2e.conftest import starter
from tests.e2e.servers import REAL
from tests.models.paged import PagedModel

# Read in 2 lines of 9 cells of 8 pixels, and in 7 of 2.
WIDE, TALL = picture(size=(200, 45)), picture(size=(60, 150))
SOFT_TOKEN = 500
CHANNEL = str(500 + GEMMA4_TOKENS.index("<|channel>"))
CLOSE = 5e-5
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 5},
        "days": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 1, "maxItems": 2},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_gemma4_checkpoint(tmp_path_factory.mktemp("bucket") / "gemma4" / "1")


@pytest.fixture(scope="module")
def server(tmp_path_factory, folder, compile_cache):
    with starter(tmp_path_factory.mktemp("server"), folder, compile_cache) as start:
        flags = ("--dtype=float32", "--max-model-len=512", "--max-num-seqs=4")
        yield start(REAL, *flags, "--num-blocks=128").wait_ready()


def ask(server, *content, **fields):
    parts = [
        {"type": "text", "text": each}
        if isinstance(each, str)
        else {"type": "image_url", "image_url": {"url": data_url(file_of(each))}}
        for each in content
    ]
    body = {"messages": [{"role": "user", "content": parts}], "temperature": 0} | fields
    answer = server.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_first_token_is_that_of_the_model_on_the_pixels(server, folder):
    """The pictures are resized here, and the model run without an engine."""
    options = {"return_token_ids": True, "logprobs": True, "max_tokens": 1}
    answer = ask(server, WIDE, "or", TALL, **options)
    prompt = answer["prompt_token_ids"]
    model = PagedModel(folder, 1, 256)
    sizes = [(WIDE, (72, 16)), (TALL, (16, 56))]
    pixels = [np.asarray(each.resize(size, Image.Resampling.BICUBIC)) for each, size in sizes]
    rows = np.stack([model.encode(each) for each in pixels])
    first = prompt.index(SOFT_TOKEN)
    second = prompt.index(SOFT_TOKEN, first + 18)
    assert prompt.count(SOFT_TOKEN) == 18 + 14
    images = StepImages(rows, np.array([first, second]), np.array([18, 14]))
    logits = model.prefill([prompt], images)[0][-1]
    expected = logits.max() - np.logaddexp.reduce(logits.astype(np.float64))
    [choice] = answer["choices"]
    assert choice["token_ids"] == [logits.argmax()]
    assert choice["logprobs"]["content"][0]["logprob"] == pytest.approx(expected, abs=CLOSE)
    assert answer["usage"]["prompt_tokens"] == len(prompt)


@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_is_one_of_the_tool_whatever_the_weights_say(server, seed):
    # Random weights may think for ever.
    options = {"tools": [TOOL], "tool_choice": "required", "logit_bias": {CHANNEL: -100}}
    options["parallel_tool_calls"] = False
    answer = ask(server, "Weather?", **options, temperature=1, seed=seed, max_tokens=100)
    [choice] = answer["choices"]
    [call] = choice["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert choice["finish_reason"] == "tool_calls"
    assert call["function"]["name"] == "get_weather"
    assert list(arguments) == ["city", "days", "unit"]
    assert len(arguments["city"]) <= 5
    assert set(arguments["days"]) <= {1, 2}
    assert arguments["unit"] in ("C", "F")
