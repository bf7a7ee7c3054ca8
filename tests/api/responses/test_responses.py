"""POST /v1/responses: what it asks of the engine, the order of its events, and what it refuses."""

from __future__ import annotations

import json

import pytest

from server.api.requests.generation import Sampling
from tests.api.speaking import CALL, NOW, SCHEMA, THOUGHT, named_events

PATH = "/v1/responses"
WEATHER = {"type": "function", "name": "get_weather", "parameters": SCHEMA}
CLOCK = {"type": "function", "name": "now"}
JSON = {"content-type": "application/json"}
HELLO = ["response.created", "response.in_progress"]
TEXT = "response.output_text"
ARGUMENTS = "response.function_call_arguments"
ITEM, PART = "response.output_item", "response.content_part"


def nested(depth: int) -> dict:
    """A schema of objects in objects."""
    schema: dict = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


async def ask(client, **fields):
    response = await client.post(PATH, json={"input": "hi", **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def streamed(client, **fields):
    response = await client.post(PATH, json={"input": "hi", "stream": True, **fields})
    return named_events(response.content)


def kinds(events, *, collapse=True) -> list[str]:
    """The events' names; runs of deltas count as one."""
    names = [event["type"] for event in events]
    return [n for i, n in enumerate(names) if not (collapse and i and names[i - 1] == n)]


class TestEvents:
    async def test_a_text_comes_in_the_documented_order(self, client, says):
        says("It is warm.")
        events = await streamed(client)
        assert kinds(events) == [
            *HELLO, f"{ITEM}.added", f"{PART}.added", f"{TEXT}.delta", f"{TEXT}.done",
            f"{PART}.done", f"{ITEM}.done", "response.completed",
        ]  # fmt: skip
        assert [event["sequence_number"] for event in events] == list(range(len(events)))

    async def test_reasoning_and_calls_are_items_of_their_own(self, client, says):
        says(f"{THOUGHT}{CALL}\n{NOW}")
        events = await streamed(client, tools=[WEATHER, CLOCK])
        thinking = "response.reasoning_text"
        assert kinds(events)[2:-1] == [
            f"{ITEM}.added", f"{PART}.added", f"{thinking}.delta", f"{thinking}.done",
            f"{PART}.done", f"{ITEM}.done",
            f"{ITEM}.added", f"{ARGUMENTS}.delta", f"{ARGUMENTS}.done", f"{ITEM}.done",
            f"{ITEM}.added", f"{ARGUMENTS}.delta", f"{ARGUMENTS}.done", f"{ITEM}.done",
        ]  # fmt: skip
        added = [event for event in events if event["type"] == f"{ITEM}.added"]
        assert [event["output_index"] for event in added] == [0, 1, 2]

    @pytest.mark.parametrize(
        "text", ["It is warm.", f"{THOUGHT}Well.\n{CALL}\n{NOW}", "", f"{THOUGHT}", CALL[:-18]]
    )
    async def test_the_last_event_has_what_the_pieces_say_and_what_a_whole_answer_has(
        self, client, says, text
    ):
        says(text)
        events = await streamed(client, tools=[WEATHER, CLOCK])
        output = events[-1]["response"]["output"]
        done = [event["item"] for event in events if event["type"] == f"{ITEM}.done"]
        assert done == output
        for index, item in enumerate(output):
            pieces = [e["delta"] for e in events if "delta" in e and e["output_index"] == index]
            whole = item["arguments"] if "arguments" in item else item["content"][0]["text"]
            assert "".join(pieces) == whole
        answer = await ask(client, tools=[WEATHER, CLOCK])
        assert [said(item) for item in answer["output"]] == [said(item) for item in output]

    async def test_a_cut_answer_ends_as_incomplete(self, client, says, engine):
        says(CALL[:-18])
        engine.finish_reason = "length"
        last = (await streamed(client, tools=[WEATHER]))[-1]
        assert last["type"] == "response.incomplete"
        assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
        (item,) = last["response"]["output"]
        assert (item["status"], item["arguments"]) == ("incomplete", '{"city": "Os')

    async def test_a_failure_in_mid_stream_is_a_failed_response_and_an_error(
        self, client, engine, ids, monkeypatch
    ):
        async def fail(submission, _):
            engine.emit(ids("a"))
            await engine.until_read()
            engine.emit(finish_reason="error", error="internal", message="the step failed")

        engine.script = []
        monkeypatch.setattr(engine, "_play", fail)
        *_, failed, error = await streamed(client)
        assert failed["type"] == "response.failed"
        assert failed["response"]["status"] == "failed"
        assert failed["response"]["error"]["message"] == "the step failed"
        assert (error["type"], error["message"]) == ("error", "the step failed")


def said(item):
    """An output item without what differs from one answer to the next."""
    return {name: value for name, value in item.items() if name not in ("id", "call_id")}


class TestTheAnswer:
    async def test_an_empty_answer_is_a_message_with_an_empty_text(self, client, says):
        says("")
        (item,) = (await ask(client))["output"]
        assert item["content"][0]["text"] == ""

    async def test_usage_counts_cached_and_reasoning_tokens(self, client, says, tokenizer):
        says(f"{THOUGHT}Well.")
        usage = (await ask(client))["usage"]
        assert usage["input_tokens_details"]["cached_tokens"] == 2
        thought = len(tokenizer.encode("<think>\nWhere is Oslo?"))
        assert usage["output_tokens_details"]["reasoning_tokens"] == thought
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]

    async def test_counted_input_tokens_are_those_of_the_response(self, client, says):
        says("x")
        fields = {"input": "hello", "instructions": "Be brief.", "tools": [WEATHER]}
        counted = (await client.post(f"{PATH}/input_tokens", json=fields)).json()
        answer = await ask(client, **fields)
        assert counted["input_tokens"] == answer["usage"]["input_tokens"]

    async def test_what_was_asked_is_repeated_and_nothing_is_stored(self, client, says):
        says("x")
        asked = {"instructions": "i", "metadata": {"a": "b"}, "temperature": 0.5, "user": "u"}
        asked |= {"max_output_tokens": 9, "tool_choice": "none", "safety_identifier": "s"}
        answer = await ask(client, tools=[WEATHER], store=True, **asked)
        assert {name: answer[name] for name in asked} == asked
        assert answer["store"] is False
        assert answer["tools"][0]["name"] == "get_weather"

    async def test_log_probabilities_are_of_every_token(self, client, says):
        says("warm")
        plain = (await ask(client))["output"][0]["content"][0]
        assert plain["logprobs"] == []
        included = {"include": ["message.output_text.logprobs"]}
        for fields, num_top in ((included, 0), ({"top_logprobs": 2}, 2)):
            answer = await ask(client, **fields)
            logprobs = answer["output"][0]["content"][0]["logprobs"]
            assert len(logprobs) == answer["usage"]["output_tokens"]
            assert {len(entry["top_logprobs"]) for entry in logprobs} == {num_top}

    async def test_streamed_log_probabilities_join_to_the_whole(self, client, says):
        says("It is warm.")
        events = await streamed(client, top_logprobs=1)
        pieces = [e["logprobs"] for e in events if e["type"] == f"{TEXT}.delta"]
        (part,) = events[-1]["response"]["output"][0]["content"]
        assert [entry for piece in pieces for entry in piece] == part["logprobs"]


class TestTheRequest:
    async def test_options_reach_the_engine(self, client, says, engine):
        says("x")
        asked = {"temperature": 0.5, "top_p": 0.25, "top_k": 3, "seed": 4}
        await ask(client, max_output_tokens=5, **asked)
        params = engine.submitted[-1].params
        assert {name: getattr(params, name) for name in asked} == asked
        assert params.max_tokens == 5

    async def test_the_answer_repeats_the_models_own_options(self, client, says, service):
        says("x")
        service._defaults = Sampling(temperature=0.6)
        answer = await ask(client)
        assert (answer["temperature"], answer["top_p"]) == (0.6, 1.0)
        assert (await ask(client, temperature=0.25))["temperature"] == 0.25

    @pytest.mark.parametrize(
        ("form", "kind"),
        [
            ({"type": "text"}, None),
            ({"type": "json_object"}, "json_object"),
            ({"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, "json_schema"),
        ],
    )
    async def test_a_text_format_is_a_grammar(self, client, says, engine, form, kind):
        says("{}")
        await ask(client, text={"format": form})
        grammar = engine.submitted[-1].params.grammar
        assert (grammar and grammar.kind) == kind

    @pytest.mark.parametrize(
        ("choice", "forces"),
        [
            ("auto", False),
            ("none", False),
            ("required", True),
            ({"type": "function", "name": "now"}, True),
            ({"type": "allowed_tools", "mode": "required", "tools": [CLOCK]}, True),
            ({"type": "allowed_tools", "mode": "auto", "tools": [CLOCK]}, False),
        ],
    )
    async def test_a_tool_choice_forces_calls_by_a_grammar(
        self, client, says, engine, choice, forces
    ):
        says("x")
        await ask(client, tools=[WEATHER, CLOCK], tool_choice=choice)
        assert (engine.submitted[-1].params.grammar is not None) == forces

    async def test_only_allowed_tools_are_in_the_prompt(self, client, says, prompted):
        says("x")
        allowed = {"type": "allowed_tools", "mode": "auto", "tools": [CLOCK]}
        await ask(client, tools=[WEATHER, CLOCK], tool_choice=allowed)
        assert "get_weather" not in prompted()
        assert '"now"' in prompted()

    async def test_without_parallel_calls_the_first_call_is_the_only_one(self, client, says):
        says(f"{CALL}\n{NOW}")
        answer = await ask(client, tools=[WEATHER, CLOCK], parallel_tool_calls=False)
        assert [item["name"] for item in answer["output"]] == ["get_weather"]

    async def test_no_effort_switches_thinking_off(self, client, says, prompted):
        says("x")
        await ask(client, reasoning={"effort": "none"})
        assert prompted().endswith("<think>\n\n</think>\n\n")

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"input": []}, "input"),
            ({"input": 5}, "input"),
            ({"input": None}, "input"),
            ({"input": [{"role": 5}]}, "input[0].role"),
            ({"input": [{"role": "user", "content": [{"type": 5}]}]}, "input[0].content[0].type"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"max_output_tokens": 9000}, "max_output_tokens"),
            ({"temperature": 3}, "temperature"),
            ({"top_logprobs": 21}, "top_logprobs"),
            ({"include": ["x"]}, "include"),
            ({"truncation": "auto"}, "truncation"),
            ({"text": {"verbosity": "low"}}, "text.verbosity"),
            ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
            ({"text": {"format": {"type": "json_schema", "schema": {"type": 1}}}}, "text.format"),
            ({"reasoning": {"effort": "low"}}, "reasoning.effort"),
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
            ({"conversation": "c"}, "conversation"),
            ({"background": True}, "background"),
            ({"prompt": {"id": "p"}}, "prompt"),
            ({"max_tokens": 5}, "max_tokens"),
            ({"n": 2}, "n"),
            ({"stop": ["a"]}, "stop"),
            ({"tools": [{"type": "web_search"}]}, "tools[0]"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice"),
            ({"tools": [CLOCK], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
            ({"metadata": {"a": 1}}, "metadata.a"),
            ({"chat_template_kwargs": {"messages": []}}, "input"),
        ],
    )  # fmt: skip
    async def test_what_cannot_be_honoured_is_refused_by_its_name(self, client, fields, param):
        response = await client.post(PATH, json={"input": "hi", **fields})
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == param
        assert len(error["message"]) > len(param)

    @pytest.mark.parametrize(
        ("tool", "words"),
        [
            ({"type": "function", "function": {"name": "f"}}, "the fields of function into the"),
            ({"type": "function"}, "tools[0] has no name; give it"),
        ],
    )
    async def test_a_nested_tool_is_told_where_its_fields_belong(self, client, tool, words):
        response = await client.post(PATH, json={"input": "hi", "tools": [tool]})
        assert words in response.json()["error"]["message"]

    async def test_an_input_that_is_too_long_is_named(self, client):
        response = await client.post(PATH, json={"input": "x" * 9000})
        error = response.json()["error"]
        assert (error["param"], error["code"]) == ("input", "context_length_exceeded")

    @pytest.mark.parametrize(
        "fields",
        [
            {"metadata": {"a": "\ud800"}},
            {"input": "\ud800"},
            {"instructions": "\ud800"},
            {"user": "\ud800"},
            {"tools": [{**WEATHER, "parameters": {"type": "object", "x": 10**30}}]},
            {"tools": [{**WEATHER, "description": "\ud800"}]},
            {"text": {"format": {"type": "json_schema", "schema": {"maximum": 10**30}}}},
            {"tools": [{**WEATHER, "parameters": nested(300)}], "tool_choice": "required"},
            {"text": {"format": {"type": "json_schema", "schema": nested(300)}}},
        ],
    )
    async def test_what_json_cannot_repeat_is_refused(self, client, says, fields):
        says("x")
        response = await client.post(
            PATH, content=json.dumps({"input": "hi", **fields}), headers=JSON
        )
        assert response.status_code in (200, 400)
        assert response.json()

    async def test_fields_that_change_nothing_pass(self, client, says):
        says("x")
        await ask(
            client,
            background=False,
            previous_response_id=None,
            service_tier="auto",
            prompt_cache_key="k",
            stream_options={"include_obfuscation": False},
            include=["reasoning.encrypted_content"],
            max_tool_calls=3,
            text={"format": {"type": "text"}, "verbosity": "medium"},
            something_new={"a": 1},
        )


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")],
)
async def test_a_stored_response_is_not_found_because_none_is_stored(client, method, path):
    response = await client.request(method, f"{PATH}/resp_1{path}")
    assert response.status_code == 404
    assert "stores no responses" in response.json()["error"]["message"]


async def test_a_compaction_is_answered_with_the_reason_why_there_is_none(client):
    response = await client.post(f"{PATH}/compact", json={"model": "small", "input": "hi"})
    assert response.status_code == 404
    assert "compacts no responses" in response.json()["error"]["message"]


async def test_whole_numbers_may_have_a_point(client, engine, says):
    says("x")
    answer = await ask(client, max_output_tokens=16.0, top_k=3.0, seed=7.0)
    asked = engine.submitted[-1].params
    assert (asked.max_tokens, asked.top_k, asked.seed) == (16, 3, 7)
    assert json.dumps(answer["max_output_tokens"]) == "16"


async def test_a_bound_is_refused_by_the_name_that_the_client_gave(client):
    response = await client.post(PATH, json={"input": "hi", "top_logprobs": 21})
    assert response.json()["error"]["param"] == "top_logprobs"
