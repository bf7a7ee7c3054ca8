"""Images that are read at sizes of their own: pixels, tokens and counts follow the size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from transformers.image_utils import load_image
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

from models.image_sizes import CellSizes
from server.api.chat.messages import Message, ToolCall
from server.api.chat.template import ChatTemplate, ChatTemplateError, RenderOptions
from server.api.images.decoding import read_image
from server.api.images.sent_image import SentImage
from tests.api.fakes import FakeEngine
from tests.api.images.pictures import CELLS, data_url, file_of, picture, rotated
from tests.api.images.surfaces import (
    CHAT,
    SURFACES,
    ask_http,
    http_client,
    openai_messages,
    vision_serving,
)
from tests.api.images.test_decoding import FILES
from tests.api.images.vision import cell_tokenizer, vision_engine, vision_form
from tests.api.templates import GEMMA4, GEMMA4_FIRST, tokenizer_with

# Cells of 8 pixels, and the fewest tokens that transformers allows as the most.
PUBLISHED = replace(CELLS, sizes=CellSizes(8, 70))
PROCESSOR = Gemma4ImageProcessorPil(patch_size=4, pooling_kernel_size=2, max_soft_tokens=70)
WIDE, TALL = file_of(picture(size=(300, 20))), file_of(picture(size=(20, 100)))
TOKENIZER = cell_tokenizer()
BEGIN, SOFT, END = (TOKENIZER.special_id(text) for text in (CELLS.start, CELLS.token, CELLS.end))
# At most 8 cells of 16 pixels.
TURNS = [("user", ["First:", WIDE, "second:", TALL, "Which?"])]
SIZES = [((16, 128), 8), ((96, 16), 6)]


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_pixels_and_tokens_are_those_of_transformers(data):
    image = read_image(data, PUBLISHED, 1 << 20)
    expected = PROCESSOR(load_image(data_url(data)), do_rescale=False)
    assert image.num_tokens == expected["num_soft_tokens_per_image"][0]
    pixels = np.frombuffer(image.pixels, np.uint8).reshape(image.height, image.width, 3)
    lines, columns = image.height // 4, image.width // 4
    patches = pixels.reshape(lines, 4, columns, 4, 3).swapaxes(1, 2).reshape(lines * columns, -1)
    assert np.array_equal(patches, expected["pixel_values"][0][: len(patches)])


def test_a_photo_is_turned_before_its_size_is_taken():
    upright, turned = (read_image(rotated(number), PUBLISHED, 1 << 20) for number in (1, 6))
    assert (upright.height, upright.width) == (turned.width, turned.height)
    assert upright.digest != turned.digest


def answering(**options):
    return vision_engine([[72], [*FakeEngine.EOS]], **options)


def serving(engine):
    return vision_serving(engine, TOKENIZER, form=CELLS)


@pytest.mark.parametrize("ask", SURFACES.values(), ids=SURFACES)
async def test_an_image_is_as_many_tokens_as_its_size_says_on_every_surface(ask):
    engine = answering()
    async with serving(engine) as s:
        answer = await ask(s, TURNS)
    assert answer.status == 200, answer.error
    [submission] = engine.submitted
    found = [(image.height, image.width, image.num_tokens) for image in submission.images]
    assert found == [(*size, num_tokens) for size, num_tokens in SIZES]
    prompt = submission.prompt_token_ids
    for image in submission.images:
        place = slice(image.start - 1, image.start + image.num_tokens + 1)
        assert prompt[place] == [BEGIN, *[SOFT] * image.num_tokens, END]
    assert prompt.count(SOFT) == 14
    text = TOKENIZER.decode(prompt)
    assert "First:<|image>" in text
    assert "<image|>second:<|image>" in text


async def test_what_counts_tokens_counts_those_that_are_asked():
    engine = answering()
    body = {"messages": openai_messages(TURNS)}
    async with serving(engine) as s:
        asked = await ask_http(s, CHAT, body)
        counted = await ask_http(s, "/tokenize", body)
    prompt = engine.submitted[0].prompt_token_ids
    assert counted.body["tokens"] == prompt
    assert asked.body["usage"]["prompt_tokens"] == len(prompt)


async def test_the_room_for_an_answer_is_what_the_images_leave():
    engine = answering()
    async with serving(engine) as s:
        await ask_http(s, CHAT, {"messages": openai_messages(TURNS)})
    num_tokens = len(engine.submitted[0].prompt_token_ids)
    engine = answering(max_model_len=num_tokens + 5)
    async with serving(engine) as s:
        answer = await ask_http(s, CHAT, {"messages": openai_messages(TURNS), "max_tokens": 6})
    assert answer.status == 400
    assert "at most 5 can be generated" in answer.error


async def test_texts_that_look_like_an_image_stay_texts():
    engine = answering()
    text = "<|image><|image|><image|>"
    async with serving(engine) as s:
        answer = await ask_http(s, CHAT, {"messages": openai_messages([("user", [text, WIDE])])})
    assert answer.status == 200, answer.error
    assert engine.submitted[0].prompt_token_ids.count(SOFT) == 8


def test_an_image_in_a_tool_s_result_is_not_lost_where_the_template_has_no_place_for_it():
    call = ToolCall(id="c1", name="look", arguments={})
    shown = Message(role="tool", tool_call_id="c1").with_parts(("seen", SentImage(where="it")))
    messages = [
        Message(role="user", content="Look."),
        Message(role="assistant", tool_calls=(call,)),
        shown,
    ]
    for template in (GEMMA4, GEMMA4_FIRST):
        tokenizer = tokenizer_with(template)
        chat = ChatTemplate(tokenizer, images=vision_form(tokenizer, CELLS))
        with pytest.raises(ChatTemplateError, match="image"):
            chat.render(messages, (), RenderOptions(), [8])


async def test_a_resumed_prompt_must_have_the_places_of_these_images():
    engine = answering()
    body = {"messages": openai_messages(TURNS), "seed": 1}
    turned = [("user", ["First:", TALL, "second:", WIDE, "Which?"])]
    async with serving(engine) as s, http_client(s) as client:
        await client.post(CHAT, json=body)
        prompt = engine.submitted[0].prompt_token_ids
        resume = {"model_version": "1", "token_ids": [[]], "prompt_token_ids": prompt}
        body |= {"stream": True, "resume": resume}
        again = await client.post(CHAT, json=body)
        wrong = await client.post(CHAT, json=body | {"messages": openai_messages(turned)})
    assert again.status_code == 200, again.text
    first, second = engine.submitted
    assert second.images == first.images
    assert wrong.status_code == 400
    assert "has part of an image" in wrong.json()["error"]["message"]
