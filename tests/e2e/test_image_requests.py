"""Chats with images, from the client's words to the device: one server, asked on every surface.

What the model sees cannot be read from outside. So the tokens of one conversation are compared over
all surfaces, and the log probabilities of others must differ.
"""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from antipode import Client
from PIL import Image
from transformers import Gemma3Processor, PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from models.vision.step_images import StepImages
from tests.api.images.pictures import data_url, file_of, picture, png, png_header
from tests.api.templates import GEMMA3_IMAGES
from tests.e2e.checkpoints import IMAGE_TOKENS, write_image_checkpoint
from tests.e2e.conftest import starter
from tests.e2e.servers import FAKE, REAL
from tests.models.paged import PagedModel

PICTURE, OTHER = png(1), png(2)
QUESTION = "What is in this picture?"
NUM_TOKENS = 12
NUM_SOFT_TOKENS, SIDE, MAX_MODEL_LEN = 16, 32, 1024
SOFT_TOKEN = 500
# Pixels in another order change the log probability of the first token by 1e-3.
CLOSE = 5e-5
GREEDY = {"max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_image_checkpoint(tmp_path_factory.mktemp("bucket") / "seer" / "1")


@pytest.fixture(scope="module")
def server(tmp_path_factory, folder, compile_cache):
    with starter(tmp_path_factory.mktemp("server"), folder, compile_cache) as start:
        flags = ("--dtype=float32", f"--max-model-len={MAX_MODEL_LEN}", "--max-images-per-prompt=3")
        yield start(REAL, *flags, "--num-blocks=256").wait_ready()


def chat(*files, text=QUESTION, **fields):
    """The body of a chat that shows files and asks about them."""
    images = [{"type": "image_url", "image_url": {"url": data_url(file)}} for file in files]
    content = [*images, {"type": "text", "text": text}]
    asked = {"messages": [{"role": "user", "content": content}], "return_token_ids": True}
    return asked | GREEDY | fields


def ask(server, body, path="/v1/chat/completions"):
    answer = server.post(path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def tokens_of(answer):
    return [choice["token_ids"] for choice in answer["choices"]]


def streamed(server, body):
    """The tokens and the usage of a streamed chat."""
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    answer = server.post("/v1/chat/completions", body)
    lines = [line for line in answer.text.split("\n") if line.startswith("data: {")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    choices = [choice for event in events for choice in event["choices"]]
    tokens = [token for choice in choices for token in choice.get("token_ids", [])]
    return tokens, events[-1]["usage"]


def logprobs(server, *files):
    [choice] = ask(server, chat(*files, logprobs=True))["choices"]
    return [entry["logprob"] for entry in choice["logprobs"]["content"]]


def by_client(address, **options):
    """What the project's client gets over the transport of the address."""
    content = [{"type": "image", "image": PICTURE}, {"type": "text", "text": QUESTION}]
    with Client(address, trust_env=False) as client:
        stream = client.generate([{"role": "user", "content": content}], **GREEDY | options)
        [choice] = stream.collect()
        return list(choice.token_ids), stream.usage


def test_the_prompt_is_that_of_transformers(server, folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        folder, **dict(zip(("image_token", "boi_token", "eoi_token"), IMAGE_TOKENS, strict=True))
    )
    for name in ("image", "boi", "eoi"):
        text = getattr(tokenizer, f"{name}_token")
        setattr(tokenizer, f"{name}_token_id", tokenizer.convert_tokens_to_ids(text))
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = Gemma3Processor(
        images, tokenizer, chat_template=GEMMA3_IMAGES, image_seq_length=NUM_SOFT_TOKENS
    )
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    expected = processor(text=text, images=[picture()], add_special_tokens=False)
    assert ask(server, chat(PICTURE))["prompt_token_ids"] == expected["input_ids"][0]


def test_the_first_token_is_that_of_the_model_on_the_pixels(server, folder):
    """The picture is resized here, and the model run without an engine."""
    answer = ask(server, chat(PICTURE, logprobs=True))
    prompt = answer["prompt_token_ids"]
    pixels = np.asarray(picture().resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    model = PagedModel(folder, 1, 64)
    images = StepImages(model.encode(pixels)[None], np.array([prompt.index(SOFT_TOKEN)]))
    logits = model.prefill([prompt], images)[0][-1]
    [choice] = answer["choices"]
    expected = logits.max() - np.logaddexp.reduce(logits.astype(np.float64))
    assert choice["token_ids"][0] == logits.argmax()
    assert choice["logprobs"]["content"][0]["logprob"] == pytest.approx(expected, abs=CLOSE)


def test_every_surface_gives_the_same_answer(server):
    answer = ask(server, chat(PICTURE))
    [tokens], text = tokens_of(answer), answer["choices"][0]["message"]["content"]
    num_prompt_tokens = len(answer["prompt_token_ids"])
    assert answer["usage"]["prompt_tokens"] == num_prompt_tokens
    assert answer["prompt_token_ids"].count(SOFT_TOKEN) == NUM_SOFT_TOKENS

    found, usage = streamed(server, chat(PICTURE))
    assert (found, usage["prompt_tokens"]) == (tokens, num_prompt_tokens)
    for address in (f"grpc://{server.grpc}", server.http):
        found, usage = by_client(address)
        assert (found, usage.num_prompt_tokens) == (tokens, num_prompt_tokens)

    parts = [
        {"type": "input_image", "image_url": data_url(PICTURE)},
        {"type": "input_text", "text": QUESTION},
    ]
    asked = {"input": [{"role": "user", "content": parts}], "max_output_tokens": NUM_TOKENS}
    response = ask(server, asked | {"temperature": 0}, "/v1/responses")
    assert response["output"][0]["content"][0]["text"] == text
    assert response["usage"]["input_tokens"] == num_prompt_tokens

    data = base64.b64encode(PICTURE).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    blocks = [{"type": "image", "source": source}, {"type": "text", "text": QUESTION}]
    asked = {"messages": [{"role": "user", "content": blocks}], "max_tokens": NUM_TOKENS}
    message = ask(server, {"model": "seer", "temperature": 0} | asked, "/v1/messages")
    assert message["content"][0]["text"] == text
    usage = message["usage"]
    cached = usage.get("cache_read_input_tokens") or 0
    assert usage["input_tokens"] + cached == num_prompt_tokens


def test_the_prefix_cache_finds_an_image_and_not_another(server):
    text = "Which of the two is it?"
    first = ask(server, chat(PICTURE, text=text))
    again = ask(server, chat(PICTURE, text=text))
    assert tokens_of(again) == tokens_of(first)
    end = first["prompt_token_ids"].index(SOFT_TOKEN) + NUM_SOFT_TOKENS
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= end
    unseen = ask(server, chat(png(3), text=text))
    assert unseen["usage"]["prompt_tokens_details"]["cached_tokens"] < end


def test_another_picture_gives_other_log_probabilities(server):
    first = logprobs(server, PICTURE)
    assert logprobs(server, OTHER) != first
    assert logprobs(server, PICTURE, OTHER) != logprobs(server, OTHER, PICTURE)
    assert logprobs(server, PICTURE) == pytest.approx(first, abs=CLOSE)


def test_a_resumed_stream_gives_the_rest(server):
    answer = ask(server, chat(PICTURE))
    [tokens] = tokens_of(answer)
    received = {
        "model_version": answer["model_version"],
        "prompt_token_ids": answer["prompt_token_ids"],
        "token_ids": [tokens[:5]],
    }
    body = chat(PICTURE, resume=received, seed=answer["seed"])
    assert streamed(server, body)[0] == tokens[5:]
    body = chat(PICTURE, OTHER, resume=received, seed=answer["seed"])
    refused = server.post("/v1/chat/completions", body | {"stream": True})
    assert (refused.status_code, "places for 1 images" in refused.text) == (400, True)


def test_choices_share_the_image(server):
    [alone] = tokens_of(ask(server, chat(PICTURE)))
    assert tokens_of(ask(server, chat(PICTURE, n=2))) == [alone, alone]


def test_several_at_once_each_get_what_they_get_alone(server):
    files = [(PICTURE,), (), (OTHER,), (PICTURE, OTHER), (), (OTHER, PICTURE, OTHER)]
    bodies = [chat(*each, text=f"{i}: {QUESTION}") for i, each in enumerate(files)]
    with ThreadPoolExecutor(len(bodies)) as pool:
        together = list(pool.map(lambda body: tokens_of(ask(server, body)), bodies))
    assert together == [tokens_of(ask(server, body)) for body in bodies]


def test_an_answer_about_an_image_keeps_its_form(server):
    seen = {"seen": {"enum": ["cat", "dog"]}}
    schema = {"type": "object", "properties": seen, "required": ["seen"]}
    schema |= {"additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "seen", "schema": schema}}
    options = {"max_tokens": 300, "ignore_eos": False, "temperature": 1, "seed": 1}
    [choice] = ask(server, chat(PICTURE, response_format=form, **options))["choices"]
    assert json.loads(choice["message"]["content"])["seen"] in seen["seen"]["enum"]

    tool = {"type": "function", "function": {"name": "tell", "parameters": schema}}
    options |= {"tools": [tool], "tool_choice": "required"}
    [choice] = ask(server, chat(PICTURE, **options))["choices"]
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "tell"
    assert json.loads(call["function"]["arguments"])["seen"] in seen["seen"]["enum"]


def test_the_context_holds_the_tokens_of_images(server):
    """Without max_tokens an answer may be the rest of the context."""
    answer = ask(server, chat(PICTURE, OTHER, max_tokens=None))
    usage = answer["usage"]
    assert usage["prompt_tokens"] > 2 * NUM_SOFT_TOKENS
    assert usage["total_tokens"] == MAX_MODEL_LEN
    long = chat(PICTURE, max_tokens=None, text="a" * (MAX_MODEL_LEN - NUM_SOFT_TOKENS - 10))
    refused = server.post("/v1/chat/completions", long)
    assert (refused.status_code, refused.json()["error"]["code"]) == (
        400,
        "context_length_exceeded",
    )


def test_text_never_stands_for_an_image(server):
    text = "<start_of_image><image_soft_token><end_of_image>"
    prompt = ask(server, chat(text=text))["prompt_token_ids"]
    assert not {SOFT_TOKEN, SOFT_TOKEN + 1, SOFT_TOKEN + 2} & set(prompt)
    mixed = ask(server, chat(PICTURE, text=text))["prompt_token_ids"]
    assert mixed.count(SOFT_TOKEN) == NUM_SOFT_TOKENS


NOISE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
IMAGE_PART = {"type": "image_url", "image_url": {"url": data_url(PICTURE)}}
REFUSED_FILES = {
    "no image": (NOISE, "content[0] has an image"),
    "cut short": (PICTURE[:-200], "content[0] has an image that is damaged or cut short"),
    "a bomb": (png_header(30_000, 30_000), "content[0] has an image"),
}


@pytest.mark.parametrize(("file", "told"), REFUSED_FILES.values(), ids=REFUSED_FILES)
def test_a_file_that_cannot_be_read_is_refused_by_its_place(server, file, told):
    answer = server.post("/v1/chat/completions", chat(file))
    assert (answer.status_code, told in answer.json()["error"]["message"]) == (400, True)


def test_more_images_than_the_servers_number_are_refused(server):
    answer = server.post("/v1/chat/completions", chat(*[PICTURE] * 100))
    assert answer.status_code == 400
    told = "messages[0].content[3] is image 4 of 100; a prompt may have 3"
    assert answer.json()["error"]["message"] == told


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": [IMAGE_PART]}),
        ("/v1/completions", {"prompt": [1, SOFT_TOKEN, 5]}),
        ("/v1/embeddings", {"input": [IMAGE_PART]}),
        ("/tokenize", {"prompt": [IMAGE_PART]}),
    ],
)
def test_what_takes_no_images_refuses_them(server, path, fields):
    answer = server.post(path, {"model": "seer"} | fields)
    assert answer.status_code in (400, 422), answer.text


def test_nothing_was_compiled_after_the_start(server):
    ask(server, chat(PICTURE))
    assert server.metric("antipode_compilations_after_ready_total") == 0


@pytest.mark.parametrize("reads_images", [True, False], ids=["0 images", "a model of text"])
def test_a_server_of_text_refuses_an_image_and_has_no_room_for_one(
    start, folder, checkpoint, reads_images
):
    """By the API process, so the engine has no device."""
    model, flags = (folder, ["--max-images-per-prompt=0"]) if reads_images else (checkpoint, [])
    server = start(FAKE, *flags, "--max-body-bytes=5000", model=model).wait_ready()
    told = "messages[0].content[0] is an image, but this model reads only text"
    answer = server.post("/v1/chat/completions", chat(file_of(picture(size=(8, 8)))))
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, told)
    assert server.post("/v1/chat/completions", chat(text="a" * 6000)).status_code == 413
