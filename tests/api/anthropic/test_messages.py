"""POST /v1/messages: what it asks of the engine, the order of its events, and what it refuses."""

from __future__ import annotations

import json

import httpx
import pytest
from pydantic_core import from_json

from server.api.access.gatekeeper import Gatekeeper
from server.api.servers.http_server import create_http_app
from server.config.server_config import ServerConfig
from tests.api.access.keys import KEY, LIMITED, two_keys
from tests.api.speaking import CALL, NOW, SCHEMA, THOUGHT, named_events

PATH = "/v1/messages"
WEATHER = {"name": "get_weather", "description": "d", "input_schema": SCHEMA}
CLOCK = {"name": "now", "input_schema": {"type": "object"}}
ASKED = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 200}
START, STOP = "content_block_start", "content_block_stop"
DELTA = "content_block_delta"


async def ask(client, **fields):
    response = await client.post(PATH, json={**ASKED, **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def streamed(client, **fields):
    response = await client.post(PATH, json={**ASKED, "stream": True, **fields})
    return named_events(response.content)


def kinds(events) -> list[str]:
    """The events' names; runs of deltas of one kind count as one."""
    names = [f"{e['delta']['type']}" if e["type"] == DELTA else e["type"] for e in events]
    return [n for i, n in enumerate(names) if not (i and names[i - 1] == n)]


class TestEvents:
    async def test_a_text_comes_in_the_documented_order(self, client, says):
        says("It is warm.")
        assert kinds(await streamed(client)) == [
            "message_start", "ping", START, "text_delta", STOP, "message_delta", "message_stop",
        ]  # fmt: skip

    async def test_thinking_text_and_uses_are_blocks_of_their_own(self, client, says):
        says(f"{THOUGHT}Well.\n{CALL}\n{NOW}")
        events = await streamed(client, tools=[WEATHER, CLOCK])
        assert kinds(events)[2:-2] == [
            START, "thinking_delta", "signature_delta", STOP,
            START, "text_delta", STOP,
            START, "input_json_delta", STOP,
            START, "input_json_delta", STOP,
        ]  # fmt: skip
        assert [e["index"] for e in events if e["type"] == START] == [0, 1, 2, 3]
        assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}

    @pytest.mark.parametrize(
        "text", ["It is warm.", f"{THOUGHT}Well.\n{CALL}\n{NOW}", "", THOUGHT, CALL[:-18]]
    )
    async def test_pieces_join_to_the_whole_answer(self, client, says, text):
        says(text)
        events = await streamed(client, tools=[WEATHER, CLOCK])
        whole = await ask(client, tools=[WEATHER, CLOCK])
        joined = [joined_block(events, index) for index in range(len(whole["content"]))]
        assert joined == [without_ids(block) for block in whole["content"]]
        end = events[-2]
        assert end["usage"] == whole["usage"]
        assert end["delta"]["stop_reason"] == whole["stop_reason"]

    async def test_the_start_counts_the_prompt(self, client, says):
        says("x")
        start, *_, end, _ = await streamed(client)
        assert start["message"]["usage"]["input_tokens"] == end["usage"]["input_tokens"] > 0
        assert start["message"]["content"] == []

    async def test_a_failure_in_mid_stream_is_an_error_event(
        self, client, engine, ids, monkeypatch
    ):
        async def fail(submission, _):
            engine.emit(ids("a"))
            await engine.until_read()
            engine.emit(finish_reason="error", error="internal", message="the step failed")

        engine.script = []
        monkeypatch.setattr(engine, "_play", fail)
        last = (await streamed(client))[-1]
        assert last["type"] == "error"
        assert last["error"] == {"type": "api_error", "message": "the step failed"}


_TEXT_OF = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}


def joined_block(events, index):
    """A block as a client joins it."""
    mine = [event for event in events if event.get("index") == index]
    block = without_ids(mine[0]["content_block"])
    deltas = [event["delta"] for event in mine if event["type"] == DELTA]
    pieces = [delta for delta in deltas if delta["type"] in _TEXT_OF]
    text = "".join(piece[_TEXT_OF[piece["type"]]] for piece in pieces)
    if block["type"] == "tool_use":
        # Anthropic's clients read what is certain of arguments that were cut short.
        block["input"] = from_json(text or "{}", allow_partial=True)
    else:
        block[block["type"]] = text
    return block


def without_ids(block):
    return {name: value for name, value in block.items() if name not in ("id", "signature")}


class TestTheAnswer:
    async def test_an_empty_answer_is_an_empty_text(self, client, says):
        says("")
        assert (await ask(client))["content"] == [{"type": "text", "text": ""}]

    @pytest.mark.parametrize(
        ("text", "fields", "reason", "sequence"),
        [
            ("warm", {}, "end_turn", None),
            ("warm", {"stop_sequences": ["rm"]}, "stop_sequence", "rm"),
            (CALL, {"tools": [WEATHER]}, "tool_use", None),
            (CALL, {"tools": [WEATHER], "tool_choice": {"type": "any"}}, "tool_use", None),
            (
                CALL,
                {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "get_weather"}},
                "tool_use",
                None,
            ),
        ],
    )
    async def test_the_reason_to_stop(self, client, says, text, fields, reason, sequence):
        says(text)
        answer = await ask(client, **fields)
        assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, sequence)

    async def test_an_answer_of_the_most_tokens_says_so(self, client, says, engine):
        says("warm")
        engine.finish_reason = "length"
        assert (await ask(client))["stop_reason"] == "max_tokens"

    async def test_a_use_has_its_input_as_an_object(self, client, says):
        says(CALL)
        (block,) = (await ask(client, tools=[WEATHER]))["content"]
        assert (block["name"], block["input"]) == ("get_weather", {"city": "Oslo"})

    async def test_omitted_thinking_is_an_empty_block(self, client, says):
        says(f"{THOUGHT}Well.")
        thinking = {"type": "adaptive", "display": "omitted"}
        answer = await ask(client, thinking=thinking)
        assert [block.get("thinking") for block in answer["content"]] == ["", None]

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]},
            {"tools": [WEATHER], "tool_choice": {"type": "auto"}},
            {"thinking": {"type": "disabled"}},
            {"messages": [*ASKED["messages"], {"role": "assistant", "content": "I"}]},
        ],
    )  # fmt: skip
    async def test_counted_tokens_are_those_of_the_message(self, client, says, fields):
        says("x")
        body = {name: value for name, value in {**ASKED, **fields}.items() if name != "max_tokens"}
        counted = (await client.post(f"{PATH}/count_tokens", json=body)).json()
        assert counted == {"input_tokens": (await ask(client, **fields))["usage"]["input_tokens"]}


class TestTheRequest:
    async def test_options_reach_the_engine(self, client, says, engine):
        says("x")
        await ask(client, temperature=0.5, top_p=0.25, top_k=3, max_tokens=5)
        params = engine.submitted[-1].params
        assert (params.temperature, params.top_p, params.top_k) == (0.5, 0.25, 3)
        assert params.max_tokens == 5

    async def test_a_last_message_of_the_assistant_is_continued(self, client, says, prompted):
        says("x")
        said = {"role": "assistant", "content": "It is"}
        await ask(client, messages=[*ASKED["messages"], said])
        assert prompted().endswith("It is")

    @pytest.mark.parametrize("fields", [{"output_config": {"format": "F"}}, {"output_format": "F"}])
    async def test_an_output_format_is_a_grammar(self, client, says, engine, fields):
        says("{}")
        form = json.dumps({"type": "json_schema", "schema": SCHEMA})
        await ask(client, **json.loads(json.dumps(fields).replace('"F"', form)))
        assert json.loads(engine.submitted[-1].params.grammar.text) == SCHEMA

    @pytest.mark.parametrize(
        ("choice", "forces"), [("auto", False), ("none", False), ("any", True), ("tool", True)]
    )
    async def test_a_tool_choice_forces_uses_by_a_grammar(
        self, client, says, engine, choice, forces
    ):
        says("x")
        named = {"name": "now"} if choice == "tool" else {}
        await ask(client, tools=[WEATHER, CLOCK], tool_choice={"type": choice, **named})
        assert (engine.submitted[-1].params.grammar is not None) == forces

    async def test_parallel_uses_can_be_disabled(self, client, says):
        says(f"{CALL}\n{NOW}")
        choice = {"type": "auto", "disable_parallel_tool_use": True}
        answer = await ask(client, tools=[WEATHER, CLOCK], tool_choice=choice)
        assert [block["name"] for block in answer["content"]] == ["get_weather"]

    @pytest.mark.parametrize(("kind", "is_on"), [("disabled", False), ("enabled", True)])
    async def test_thinking_switches_the_templates_variable(
        self, client, says, prompted, kind, is_on
    ):
        says("x")
        await ask(client, thinking={"type": kind, "budget_tokens": 1024})
        assert prompted().endswith("</think>\n\n") != is_on

    @pytest.mark.parametrize(
        ("header", "scheme"), [("x-api-key", ""), ("authorization", "Bearer ")]
    )
    async def test_requests_take_turns_by_key(
        self, service, health, says, engine, tmp_path, header, scheme
    ):
        says("x")
        gatekeeper = Gatekeeper(keys=two_keys(tmp_path))
        app = create_http_app(service, health, ServerConfig(), gatekeeper=gatekeeper)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            for key in (KEY, KEY, LIMITED):
                await client.post(PATH, json=ASKED, headers={header: scheme + key})
        one, again, two = (submission.source for submission in engine.submitted)
        assert one == again != two

    async def test_a_tool_may_have_a_name_as_long_as_anthropics(self, client, says):
        says("Yes.")
        response = await client.post(PATH, json={**ASKED, "tools": [{**CLOCK, "name": "x" * 128}]})
        assert response.status_code == 200, response.text

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"max_tokens": None}, "max_tokens"),
            ({"max_tokens": 0}, "max_tokens must be at least 1"),
            ({"max_tokens": 9000}, "max_tokens"),
            ({"messages": []}, "messages must not be empty"),
            ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
            ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": [
                {"type": "tool_use", "id": "a", "name": "f", "input": {}}]}]},
             "the last message uses the tool 'f'"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content: must be"),
            ({"messages": [{"role": "user", "content": [{"type": 5}]}]},
             "messages[0].content[0].type"),
            ({"system": 5}, "system: must be a string or a list of text blocks"),
            ({"temperature": 1.5}, "temperature must be at least 0 and at most 1"),
            ({"stop": ["a"]}, "stop is not supported by /v1/messages; write stop_sequences"),
            ({"mcp_servers": [{"name": "x"}]}, "mcp_servers is not supported"),
            ({"context_management": {"edits": [{"type": "x"}]}}, "context_management"),
            ({"output_config": {"effort": "low"}}, "output_config.effort"),
            ({"output_config": {"format": {"type": "json_schema", "schema": {"type": 1}}}},
             "output_config.format cannot be compiled"),
            ({"thinking": {"type": "between_tools"}}, "thinking.type"),
            ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "'bash_20250124'"),
            ({"tools": [{"name": "f"}]}, "tools[0] has no input_schema"),
            ({"tools": [{"name": "f", "parameters": {}}]}, "write parameters as input_schema"),
            ({"tools": [{**CLOCK, "name": "x" * 129}]}, "a name has 1 to 128 letters"),
            ({"tools": [{**CLOCK, "name": "a.b"}]}, "a name has 1 to 128 letters"),
            ({"tools": [{**CLOCK, "defer_loading": True}]}, "defer_loading is not supported"),
            ({"tool_choice": {"type": "any"}}, "there are no tools"),
            ({"tools": [CLOCK], "tool_choice": {"type": "tool"}}, "no name of a tool"),
        ],
    )  # fmt: skip
    async def test_what_cannot_be_honoured_is_refused_by_its_name(self, client, fields, said):
        response = await client.post(PATH, json={**ASKED, **fields})
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert said in error["message"]

    @pytest.mark.parametrize(
        "fields",
        [
            {"system": "\ud800"},
            {"stop_sequences": ["\ud800"]},
            {"messages": [{"role": "user", "content": "\ud800"}]},
            {"tools": [{**WEATHER, "description": "\ud800"}]},
            {"output_format": {"type": "json_schema", "schema": {"maximum": 10**30}}},
        ],
    )
    async def test_what_json_cannot_hold_is_answered_or_refused(self, client, says, fields):
        says("x")
        headers = {"content-type": "application/json"}
        response = await client.post(PATH, content=json.dumps({**ASKED, **fields}), headers=headers)
        assert response.status_code in (200, 400)
        assert response.json()["type"] in ("message", "error")

    async def test_fields_that_change_nothing_pass(self, client, says):
        says("x")
        await ask(
            client,
            metadata={"user_id": "u"},
            service_tier="auto",
            cache_control={"type": "ephemeral"},
            context_management={"edits": []},
            output_config={"effort": "high"},
            tools=[{**CLOCK, "type": "custom", "cache_control": {"type": "ephemeral"}}],
            something_new={"a": 1},
        )


async def test_whole_numbers_may_have_a_point(client, engine, says):
    says("x")
    thinking = {"type": "enabled", "budget_tokens": 1024.0}
    await ask(client, max_tokens=16.0, top_k=3.0, seed=7.0, thinking=thinking)
    asked = engine.submitted[-1].params
    assert (asked.max_tokens, asked.top_k, asked.seed) == (16, 3, 7)
