"""The same conversation with images on every surface asks the engine what transformers would."""

from __future__ import annotations

import numpy as np
import pytest

from tests.api.fakes import FakeEngine
from tests.api.images.pictures import data_url, png
from tests.api.images.surfaces import SURFACES, vision_serving
from tests.api.images.vision import MAX_IMAGES, processor, vision_engine, vision_tokenizer

A, B, C = png(1), png(2), png(3)
CASES = {
    "an image and a question": [("user", [A, "What is this?"])],
    "a question and an image": [("user", ["What is this?", A])],
    "only an image": [("user", [A])],
    "two images side by side": [("user", [A, B, "Which is larger?"])],
    "the same image twice": [("user", [A, "and", A])],
    "text between images": [("user", ["First:", A, "second:", B, "third:", C])],
    "images in several messages": [
        ("user", [A, "What is this?"]),
        ("assistant", ["A cat."]),
        ("user", ["And this?", B]),
    ],
    "an image after a text": [("user", ["Hello"]), ("assistant", ["Hi"]), ("user", [A])],
    "a system message": [("system", ["Be brief."]), ("user", [A, "What is this?"])],
}


def expected(turns):
    """What transformers makes: token ids, and pixels before they are scaled."""

    def part(entry):
        if isinstance(entry, str):
            return {"type": "text", "text": entry}
        return {"type": "image", "url": data_url(entry)}

    messages = [{"role": role, "content": [part(p) for p in parts]} for role, parts in turns]
    made = processor().apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        processor_kwargs={"do_rescale": False, "do_normalize": False},
    )
    [token_ids] = made["input_ids"]
    return token_ids, [np.moveaxis(pixels, 0, -1) for pixels in made["pixel_values"]]


def answering():
    return vision_engine([[72], [*FakeEngine.EOS]])


@pytest.mark.parametrize("ask", SURFACES.values(), ids=SURFACES)
@pytest.mark.parametrize("turns", CASES.values(), ids=CASES)
async def test_tokens_places_and_pixels_are_those_of_transformers(turns, ask):
    engine = answering()
    async with vision_serving(engine) as s:
        answer = await ask(s, turns)
    assert answer.status == 200, answer.error
    [submission] = engine.submitted
    token_ids, pixels = expected(turns)
    assert submission.prompt_token_ids == token_ids
    assert len(submission.images) == len(pixels)
    soft = vision_tokenizer().special_id("<image_soft_token>")
    places = [i for i, token_id in enumerate(token_ids) if token_id == soft]
    assert [i.start + k for i in submission.images for k in range(i.num_tokens)] == places
    for image, values in zip(submission.images, pixels, strict=True):
        assert (image.height, image.width, image.num_tokens) == (32, 32, 4)
        assert np.array_equal(np.frombuffer(image.pixels, np.uint8).reshape(32, 32, 3), values)


@pytest.mark.parametrize("ask", SURFACES.values(), ids=SURFACES)
async def test_usage_counts_the_tokens_of_images(ask):
    engine = answering()
    async with vision_serving(engine) as s:
        answer = await ask(s, CASES["an image and a question"])
    num_tokens = len(engine.submitted[0].prompt_token_ids)
    if isinstance(answer.body, list):
        assert answer.body[-1].usage.num_prompt_tokens == num_tokens
    else:
        usage = answer.body["usage"]
        assert num_tokens in (usage.get("prompt_tokens"), usage.get("input_tokens"))


async def test_equal_images_have_one_digest_and_others_have_others():
    engine = answering()
    async with vision_serving(engine) as s:
        await SURFACES["chat"](s, [("user", [A, B, A])])
    first, second, third = (image.digest for image in engine.submitted[0].images)
    assert first == third != second


@pytest.mark.parametrize("ask", SURFACES.values(), ids=SURFACES)
async def test_a_model_of_text_refuses_an_image_by_its_place(ask):
    engine = vision_engine([[72], [*FakeEngine.EOS]], max_images=0)
    async with vision_serving(engine) as s:
        answer = await ask(s, [("user", ["What is this?", A])])
    assert answer.status == 400
    places = ("messages[0].content[1]", "input[0].content[1]", "chat.messages[0].parts[1]")
    assert answer.error in [
        f"{place} is an image, but this model reads only text" for place in places
    ]
    assert engine.submitted == []


@pytest.mark.parametrize("ask", SURFACES.values(), ids=SURFACES)
async def test_too_many_images_are_refused_before_any_is_read(ask):
    engine = answering()
    async with vision_serving(engine) as s:
        answer = await ask(s, [("user", [b"no image"] * (MAX_IMAGES + 1))])
    assert answer.status == 400
    assert answer.error.endswith("[3] is image 4 of 4; a prompt may have 3")
    assert engine.submitted == []


@pytest.mark.parametrize("ask", SURFACES.values(), ids=SURFACES)
async def test_a_file_that_is_no_image_is_refused_by_its_place(ask):
    engine = answering()
    async with vision_serving(engine) as s:
        answer = await ask(s, [("user", [A, b"no image"])])
    assert answer.status == 400
    assert "[1] has an image that is no PNG, JPEG, WebP or GIF" in answer.error
    assert engine.submitted == []


@pytest.mark.parametrize("ask", SURFACES.values(), ids=SURFACES)
async def test_texts_in_parts_without_an_image_are_one_text(ask):
    engine = answering()
    async with vision_serving(engine) as s:
        assert (await ask(s, [("user", ["one", "two"])])).status == 200
    prompt = vision_tokenizer().decode(engine.submitted[0].prompt_token_ids)
    assert "<start_of_turn>user\none\ntwo<end_of_turn>" in prompt
    assert engine.submitted[0].images == []


@pytest.mark.parametrize("ask", SURFACES.values(), ids=SURFACES)
async def test_a_prompt_that_images_make_too_long_is_refused_before_they_are_read(ask):
    engine = vision_engine(max_model_len=12)
    async with vision_serving(engine) as s:
        answer = await ask(s, [("user", [b"no image"] * 3)])
    assert answer.status == 400
    assert answer.error.startswith("This model's maximum context length is 12 tokens. However")


@pytest.mark.parametrize("ask", SURFACES.values(), ids=SURFACES)
async def test_the_room_for_an_answer_is_what_images_leave(ask):
    turns = [("user", [A, "What?"])]
    num_tokens = len(expected(turns)[0])
    engine = vision_engine([[72], [*FakeEngine.EOS]], max_model_len=num_tokens + 10)
    async with vision_serving(engine) as s:
        answer = await ask(s, turns)
    assert answer.status == 400
    assert "at most 10 can be generated" in answer.error
