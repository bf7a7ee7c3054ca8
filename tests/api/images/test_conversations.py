"""Images next to everything else that a request may have, over both transports."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from models.image_sizes import SquareSizes
from server.api.antipode_v1.chats import conversation
from server.api.chat.fitted_request import fitted
from server.api.chat.format import ChatSettings
from server.api.images.image_reader import ImageLimits
from server.api.images.prompt_images import PromptImages
from server.api.images.sent_image import SentImage
from server.api.requests.generation import GenerateRequest
from server.config.server_config import ServerConfig
from server.errors import ApiError
from server.link.framing import MAX_FRAME_BYTES
from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine, make_service
from tests.api.images.pictures import data_url, file_of, picture, png
from tests.api.images.surfaces import (
    CHAT,
    MESSAGES,
    RESPONSES,
    anthropic_body,
    ask_http,
    grpc_chat,
    http_client,
    openai_messages,
    responses_input,
    vision_serving,
)
from tests.api.images.vision import vision_engine, vision_form, vision_tokenizer
from tests.api.templates import GEMMA3, GEMMA3_IMAGES

A, B = png(1), png(2)
ASKED = [("user", [A, "What is this?"])]
ANSWER = [[72], [73], [*FakeEngine.EOS]]
TOKENIZER = vision_tokenizer()
SOFT = TOKENIZER.special_id("<image_soft_token>")
START = TOKENIZER.special_id("<start_of_image>")
# Writes the content of every role, and knows tools.
WITH_TOOLS = (
    GEMMA3_IMAGES.replace("(message['role'] == 'user') != (loop.index0 % 2 == 0)", "false")
    + "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    "{% for m in messages %}{% for call in m.tool_calls or [] %}{{ call.function.name }}"
    "{% endfor %}{% endfor %}"
)


async def chat(engine, body, **options):
    async with vision_serving(engine, **options) as s:
        return await ask_http(s, CHAT, {"max_tokens": 20, "seed": 1} | body)


async def test_control_tokens_of_images_in_a_text_stay_text():
    engine = vision_engine(ANSWER)
    text = "<start_of_image><image_soft_token><end_of_image>"
    answer = await chat(engine, {"messages": openai_messages([("user", [text, A, text])])})
    assert answer.status == 200
    [submission] = engine.submitted
    assert submission.prompt_token_ids.count(SOFT) == 4
    assert submission.prompt_token_ids.count(START) == 1
    assert TOKENIZER.decode(submission.prompt_token_ids).count(text) == 2


async def test_control_tokens_of_images_stay_text_where_others_may_be_written(lifecycle):

    engine = vision_engine(ANSWER)
    service = make_service(
        engine,
        TOKENIZER,
        lifecycle,
        chat=ChatSettings(control_tokens_in_messages=True),
        image_format=vision_form(TOKENIZER),
    )
    turns = [("user", ["<start_of_image><end_of_turn>", A])]
    prompt = await service.prepare_chat(conversation(grpc_chat(turns)))
    request = GenerateRequest(prompt=prompt.text, add_special_tokens=False)
    async with await service.start(fitted(request, prompt)) as generation:
        await generation.take()
    [submission] = engine.submitted
    assert submission.prompt_token_ids.count(START) == 1
    assert submission.prompt_token_ids.count(TOKENIZER.special_id("<end_of_turn>")) == 2


@pytest.mark.parametrize("prompt", ["a <image_soft_token> b", [5, SOFT, 6], [START, *[SOFT] * 4]])
async def test_a_prompt_without_messages_has_no_soft_tokens(prompt):
    engine = vision_engine(ANSWER)
    async with vision_serving(engine) as s:
        answer = await ask_http(s, "/v1/completions", {"prompt": prompt})
    assert answer.status == 400
    assert "image" in answer.error
    assert engine.submitted == []


async def test_a_model_of_text_takes_these_tokens_as_before():
    engine = vision_engine(ANSWER, max_images=0)
    async with vision_serving(engine) as s:
        answer = await ask_http(s, "/v1/completions", {"prompt": [5, SOFT, 6]})
    assert answer.status == 200
    assert engine.submitted[0].prompt_token_ids == [5, SOFT, 6]


async def test_an_image_of_the_system_is_refused_where_the_template_leaves_it_out():
    engine = vision_engine(ANSWER)
    turns = [("system", ["Be brief.", A]), ("user", ["Hello"])]
    answer = await chat(engine, {"messages": openai_messages(turns)})
    assert answer.status == 400
    assert answer.error == (
        "messages[0].content[1] is an image, which the model's chat template leaves out in a"
        " message of the role 'system'"
    )


async def test_a_template_that_wants_strings_has_no_place_for_images():
    engine = vision_engine(ANSWER)
    answer = await chat(
        engine, {"messages": openai_messages(ASKED)}, tokenizer=vision_tokenizer(GEMMA3)
    )
    assert answer.status == 400
    assert "messages[0].content[0] is an image, which the model's chat template leaves out" in (
        answer.error
    )


CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
RESULT = [{"type": "text", "text": "seen"}, {"type": "image_url", "image_url": data_url(A)}]
TOOL_TURNS = [
    {"role": "user", "content": "Look."},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": RESULT},
]


@pytest.mark.parametrize("template", [GEMMA3_IMAGES, WITH_TOOLS], ids=["folded", "with tools"])
async def test_an_image_in_a_tools_result_is_in_the_prompt(template):
    engine = vision_engine(ANSWER)
    body = {"messages": TOOL_TURNS, "tools": [TOOL]}
    answer = await chat(engine, body, tokenizer=vision_tokenizer(template))
    assert answer.status == 200, answer.error
    [submission] = engine.submitted
    assert [image.num_tokens for image in submission.images] == [4]
    text = TOKENIZER.decode(submission.prompt_token_ids)
    assert text.index("seen") < text.index("<start_of_image>")


async def test_results_of_tools_have_images_in_the_other_protocols_too():
    engine = vision_engine(ANSWER)
    source = anthropic_body([("user", [A])])["messages"][0]["content"]
    used = {"type": "tool_use", "id": "c1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": source, "is_error": True}
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [used]},
        {"role": "user", "content": [result]},
    ]
    items = [
        {"role": "user", "content": "Look."},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [{"type": "input_image", "image_url": data_url(A)}],
        },
    ]
    async with vision_serving(engine) as s:
        first = await ask_http(s, MESSAGES, {"messages": messages, "max_tokens": 9})
        second = await ask_http(s, RESPONSES, {"input": items})
    assert (first.status, second.status) == (200, 200), (first.error, second.error)
    assert [len(submission.images) for submission in engine.submitted] == [1, 1]
    assert "Error:" in TOKENIZER.decode(engine.submitted[0].prompt_token_ids)


async def test_instructions_for_tools_stand_before_an_image_of_the_first_message():
    engine = vision_engine(ANSWER)
    turns = [("user", [A, "What is this?"])]
    answer = await chat(engine, {"messages": openai_messages(turns), "tools": [TOOL]})
    assert answer.status == 200, answer.error
    text = TOKENIZER.decode(engine.submitted[0].prompt_token_ids)
    assert text.index("You can call functions") < text.index("<start_of_image>")


async def test_truncation_cannot_go_with_images():
    engine = vision_engine(ANSWER)
    body = {"messages": openai_messages(ASKED), "truncate_prompt_tokens": 5}
    answer = await chat(engine, body)
    assert answer.status == 400
    assert answer.error.startswith("truncate_prompt_tokens cannot go with images")


async def test_the_answer_shows_the_prompts_tokens():
    engine = vision_engine(ANSWER)
    body = {"messages": openai_messages(ASKED), "return_token_ids": True}
    answer = await chat(engine, body)
    assert answer.body["prompt_token_ids"] == engine.submitted[0].prompt_token_ids


async def test_counts_need_no_image_to_be_read():
    engine = vision_engine(ANSWER)
    async with vision_serving(engine) as s:
        answer = await ask_http(s, CHAT, {"messages": openai_messages(ASKED)})
        num_tokens = answer.body["usage"]["prompt_tokens"]
        unread = [("user", [b"no image", "What is this?"])]
        chat_body = {"messages": openai_messages(unread)}
        tokenized = await ask_http(s, "/tokenize", chat_body)
        counted = await ask_http(s, f"{MESSAGES}/count_tokens", anthropic_body(unread))
        items = await ask_http(s, f"{RESPONSES}/input_tokens", {"input": responses_input(unread)})
        ours = await s.stub.Tokenize(pb.TokenizeRequest(chat=grpc_chat(unread)))
    assert tokenized.body["count"] == num_tokens
    assert counted.body["input_tokens"] == num_tokens
    assert items.body["input_tokens"] == num_tokens
    assert list(ours.token_ids) == engine.submitted[0].prompt_token_ids


async def test_a_stream_is_resumed_with_the_same_images_over_http():
    engine = vision_engine(ANSWER)
    async with vision_serving(engine) as s:
        body = {"messages": openai_messages(ASKED), "seed": 1, "return_token_ids": True}
        whole = (await ask_http(s, CHAT, body)).body
        resume = {
            "model_version": "1",
            "token_ids": [[72]],
            "prompt_token_ids": whole["prompt_token_ids"],
        }
        resumed = body | {"resume": resume, "stream": True}
        async with http_client(s) as client:
            rest = await client.post(CHAT, json=resumed)
        textless = resumed | {"messages": [{"role": "user", "content": "x"}]}
        other = await ask_http(s, CHAT, textless)
    assert (rest.status_code, b'"token_ids":[73]' in rest.content) == (200, True)
    first, second = engine.submitted
    assert first.prompt_token_ids == second.prompt_token_ids
    assert first.images == second.images != []
    assert (other.status, "image" in other.error) == (400, True)


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
async def test_addresses_are_refused_by_default_on_every_path(path):
    url = "https://a.example/a.png"
    bodies = {
        CHAT: {
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]
        },
        MESSAGES: {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "source": {"type": "url", "url": url}}],
                }
            ],
            "max_tokens": 5,
        },
        RESPONSES: {
            "input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
        },
    }
    async with vision_serving(vision_engine(ANSWER)) as s:
        answer = await ask_http(s, path, bodies[path])
    assert answer.status == 400
    assert (
        "[0].content[0] has the address of an image, but this server fetches none" in answer.error
    )


async def test_the_servers_bounds_hold_for_images():
    limits = ImageLimits(max_bytes=len(A) - 1)
    answer = await chat(vision_engine(ANSWER), {"messages": openai_messages(ASKED)}, limits=limits)
    assert answer.status == 400
    assert answer.error.startswith("messages[0].content[0] has an image of")


async def test_nothing_that_lasts_as_long_as_an_answer_holds_its_images():
    engine = vision_engine()
    async with vision_serving(engine) as s:
        prompt = await s.service.prepare_chat(conversation(grpc_chat(ASKED)))
        assert len(prompt.images) == 1
        request = fitted(GenerateRequest(prompt=prompt.text, add_special_tokens=False), prompt)
        starting = asyncio.create_task(s.service.start(request))
        while not engine.submitted:
            await asyncio.sleep(0)
        assert (prompt.images, request.images) == ([], [])
        engine.emit([72])
        async with await starting:
            pass


def test_a_prompt_has_no_more_images_than_a_frame_to_the_engine_holds():
    form = replace(vision_form(TOKENIZER), sizes=SquareSizes(896, 4))
    images = PromptImages(form, ImageLimits())
    info = vision_engine(max_images=1024).info
    sent = [SentImage(where=f"content[{i}]", data=A) for i in range(84)]
    images.check(sent[:83], info)
    with pytest.raises(ApiError, match=r"content\[83\] is image 84 of 84; a prompt may have 83"):
        images.check(sent, info)
    assert MAX_FRAME_BYTES > 83 * 896 * 896 * 3


async def test_a_deadline_that_passes_while_images_are_read_ends_the_request():
    engine = vision_engine(ANSWER)
    large = file_of(picture(size=(3000, 3000)), compress_level=1)
    body = {"messages": openai_messages([("user", [large] * 3)])}
    limits = ImageLimits(max_bytes=1 << 30, max_request_bytes=1 << 30)
    async with vision_serving(engine, limits=limits) as s:
        config = ServerConfig(max_body_bytes=1 << 30)
        async with http_client(s, config) as client:
            headers = {"x-envoy-expected-rq-timeout-ms": "20"}
            response = await client.post(CHAT, json=body, headers=headers)
    assert response.status_code == 504
    assert engine.submitted == []
