"""Tools and reasoning through the client: the same over both transports, and after a break."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from antipode import AsyncClient, Call, Choice, InvalidRequestError, RetryPolicy, ServerError
from antipode.requests.request import make_request
from antipode.resilience.progress import Progress
from antipode.transports.grpc_transport import message
from antipode.transports.http_transport import body
from antipode.types import CallDelta, Delta, Event

from tests.api.speaking import CALL, NOW, SCHEMA, THOUGHT
from tests.api.templates import QWEN3, tokenizer_with
from tests.client.fake_server import SayingEngine, fake_server, relays

TRANSPORTS = ("grpc", "http")
QUICK = RetryPolicy(initial_backoff=0.001, max_backoff=0.02)
MESSAGES = [{"role": "user", "content": "How warm is it in Oslo?"}]
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
TOOLS = [WEATHER, {"type": "function", "function": {"name": "now"}}]
ANSWER = f"{THOUGHT}Let me look.\n{CALL}\n{NOW}"


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_with(QWEN3)


@pytest.fixture(params=TRANSPORTS)
def transport(request):
    return request.param


def client_of(transport, between):
    addresses = [f"{transport}://{relay.address}" for relay in between]
    return AsyncClient(*addresses, retry=QUICK, trust_env=False)


@asynccontextmanager
async def calling(transport, tokenizer, engine):
    async with fake_server(engine, tokenizer) as server:
        address = f"{transport}://{server.addresses[transport]}"
        async with AsyncClient(address, retry=QUICK, trust_env=False) as client:
            yield client


async def read(stream, relay, num_tokens):
    """The whole choice; the relay is killed at a number of received tokens."""
    choice = Choice(index=0)
    async for delta in stream:
        choice.add(delta)
        if len(choice.token_ids) == num_tokens:
            relay.kill()
    return choice


def said(choice: Choice):
    calls = [(call.name, json.loads(call.arguments)) for call in choice.calls]
    return choice.text, choice.reasoning.strip("\n"), calls, choice.finish_reason


async def test_calls_and_reasoning_are_told_apart_from_text(transport, tokenizer):
    engine = SayingEngine(tokenizer.encode(ANSWER))
    async with calling(transport, tokenizer, engine) as client:
        (choice,) = await client.generate(MESSAGES, tools=TOOLS).collect()
    text, reasoning, calls, finish_reason = said(choice)
    assert (text.strip(), reasoning, calls, finish_reason) == (
        "Let me look.",
        "Where is Oslo?",
        [("get_weather", {"city": "Oslo"}), ("now", {})],
        "tool_calls",
    )
    assert choice.token_ids[:-1] == tokenizer.encode(ANSWER)
    assert len({call.id for call in choice.calls} - {""}) == 2


async def test_a_stream_that_broke_anywhere_says_each_part_once(transport, tokenizer):
    token_ids = tokenizer.encode(ANSWER)
    dying, living = SayingEngine(token_ids, halt_after=1), SayingEngine(token_ids)
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(fake_server(engine, tokenizer))
            for engine in (dying, living)
        ]
        targets = [server.addresses[transport] for server in servers]
        whole = None
        for dying.halt_after in (len(token_ids), *range(1, len(token_ids), 23)):
            async with relays(targets) as between, client_of(transport, between) as client:
                stream = client.generate(MESSAGES, tools=TOOLS)
                choice = await read(stream, between[0], dying.halt_after)
            whole = whole or choice
            assert stream.num_resumed == 1
            assert (said(choice), choice.token_ids) == (said(whole), whole.token_ids)
    assert said(whole)[2:] == ([("get_weather", {"city": "Oslo"}), ("now", {})], "tool_calls")
    assert living.submitted[-1].prompt_token_ids == dying.submitted[-1].prompt_token_ids


async def test_the_answer_is_a_message_of_the_next_request(transport, tokenizer):
    engine = SayingEngine(tokenizer.encode(ANSWER))
    async with calling(transport, tokenizer, engine) as client:
        (choice,) = await client.generate(MESSAGES, tools=TOOLS).collect()
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "mild"} for call in choice.calls
        ]
        await client.generate([*MESSAGES, choice.message, *results], tools=TOOLS).collect()
    prompt = tokenizer.decode(engine.submitted[-1].prompt_token_ids)
    assert '"name": "get_weather", "arguments": {"city": "Oslo"}' in prompt
    assert prompt.count("<tool_response>\nmild\n</tool_response>") == 2


@pytest.mark.parametrize(
    ("options", "sign"),
    [
        ({"tools": TOOLS, "tool_choice": "none"}, None),
        ({"tools": TOOLS, "tool_choice": "required"}, "get_weather"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "now"}}}, "now"),
    ],
)
async def test_a_choice_of_tools_asks_the_engine_for_the_same(tokenizer, options, sign):
    asked = []
    for transport in TRANSPORTS:
        engine = SayingEngine(tokenizer.encode(CALL))
        async with calling(transport, tokenizer, engine) as client:
            await client.generate(MESSAGES, seed=1, temperature=0, **options).collect()
        asked.append((engine.submitted[0].prompt_token_ids, engine.submitted[0].params))
    assert asked[0] == asked[1]
    grammar = asked[0][1].grammar
    assert grammar is None if sign is None else sign in grammar.text


async def test_variables_reach_the_template(transport, tokenizer):
    engine = SayingEngine(tokenizer.encode("Mild."))
    async with calling(transport, tokenizer, engine) as client:
        for kwargs in ({}, {"enable_thinking": False}):
            await client.generate(MESSAGES, chat_template_kwargs=kwargs).collect()
    prompts = [tokenizer.decode(each.prompt_token_ids) for each in engine.submitted]
    assert ["</think>" in prompt for prompt in prompts] == [False, True]


async def test_a_strict_tool_that_cannot_be_followed_is_refused(transport, tokenizer):
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}
    async with calling(transport, tokenizer, SayingEngine([])) as client:
        with pytest.raises(InvalidRequestError, match="uniqueItems"):
            await client.generate(MESSAGES, tools=[tool]).collect()


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ("text", {"tools": TOOLS}, "tools goes with messages only"),
        (MESSAGES, {"tools": [{"name": "f"}]}, "a tool is .* it must be"),
        (MESSAGES, {"tools": [{"type": "web_search"}]}, "a tool is .* it must be"),
        (MESSAGES, {"tools": TOOLS, "tool_choice": "any"}, "tool_choice is 'any'; it must be"),
    ],
)
def test_other_forms_are_refused_before_anything_is_sent(prompt, options, words):
    with pytest.raises(InvalidRequestError, match=words):
        make_request(prompt, options, model="", n=1, request_id="")


def test_tools_say_the_same_over_both_transports():
    tool = {"type": "function", "function": {"name": "f", "description": "d", "strict": True}}
    options = {"tools": [tool], "parallel_tool_calls": False, "tool_choice": "auto"}
    request = make_request(MESSAGES, options, model="", n=1, request_id="")
    fields, chat = body(request, None, ""), message(request, None).chat
    assert {name: fields[name] for name in options} == options
    assert (chat.tools[0].name, chat.tools[0].description, chat.tools[0].strict) == ("f", "d", True)
    assert chat.HasField("parallel_tool_calls")
    assert not chat.parallel_tool_calls


@pytest.mark.parametrize(
    "calls",
    [
        [CallDelta(index=0, arguments="{")],
        [CallDelta(index=1, name="f")],
        [CallDelta(index=0, name="f"), CallDelta(index=0, name="g")],
    ],
    ids=["no name", "a gap", "the same again"],
)
def test_calls_out_of_order_are_malformed(calls):
    progress = Progress(1)
    with pytest.raises(ServerError, match="a part of call"):
        progress.take(Event(delta=Delta(token_ids=(1,), calls=tuple(calls))))


def test_a_call_is_joined_from_its_parts():
    choice = Choice(index=0)
    for arguments in ("", '{"a"', ": 1}"):
        named = {} if arguments else {"id": "c", "name": "f"}
        choice.add(Delta(calls=(CallDelta(index=0, arguments=arguments, **named),)))
    assert choice.calls == [Call(id="c", name="f", arguments='{"a": 1}')]
