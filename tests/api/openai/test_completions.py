"""POST /v1/completions, by what OpenAI's reference and its users expect."""

from __future__ import annotations

import pytest

from server.api.requests.generation import GenerateRequest, Sampling
from server.link.frames import TokenLogprobs
from tests.api.http.asgi import events, joined

PATH = "/v1/completions"


async def complete(client, **fields):
    response = await client.post(PATH, json={"prompt": "hello", **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def chunks(client, **fields):
    response = await client.post(PATH, json={"prompt": "hello", "stream": True, **fields})
    assert response.status_code == 200, response.text
    *rest, done = events(response.content)
    assert done == "[DONE]"
    return rest


async def test_the_whole_answer(client):
    answer = await complete(client, model="small", seed=7)
    assert answer.pop("id").startswith("cmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer.pop("system_fingerprint").startswith("fp_")
    assert answer == {
        "object": "text_completion",
        "model": "small",
        "model_version": "1",
        "seed": 7,
        "choices": [
            {
                "index": 0,
                "text": "hello world",
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "seed": 7,
            }
        ],
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 6,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }


async def test_a_completion_is_what_the_service_says(client, service):
    """The translator adds nothing: same text, tokens, log probabilities and usage."""
    sampling = Sampling(seed=3, logprobs=2, max_tokens=16)
    async with await service.start(GenerateRequest(prompt="hello", sampling=sampling)) as it:
        deltas = [delta async for delta in it]
        usage = it.usage
    answer = await complete(client, seed=3, logprobs=2, return_token_ids=True)
    (choice,) = answer["choices"]
    assert choice["text"] == "".join(delta.text for delta in deltas)
    assert choice["token_ids"] == [token_id for delta in deltas for token_id in delta.token_ids]
    entries = [entry for delta in deltas for entry in delta.logprobs]
    assert choice["logprobs"]["tokens"] == [entry.token for entry in entries]
    assert choice["logprobs"]["token_logprobs"] == [entry.logprob for entry in entries]
    assert answer["usage"]["completion_tokens"] == usage.num_generated_tokens


async def test_streamed_and_whole_say_the_same(client):
    fields = {"n": 2, "seed": 1, "logprobs": 1, "return_token_ids": True, "echo": True}
    whole = await complete(client, **fields)
    parts = await chunks(client, **fields)
    for choice in whole["choices"]:
        mine = [c for part in parts for c in part["choices"] if c["index"] == choice["index"]]
        assert "".join(part["text"] for part in mine) == choice["text"]
        assert joined(part["token_ids"] for part in mine) == choice["token_ids"]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert joined(part["logprobs"][name] for part in mine) == choice["logprobs"][name]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        assert mine[0]["prompt_token_ids"] == choice["prompt_token_ids"]
        assert all("prompt_token_ids" not in part for part in mine[1:])


async def test_every_chunk_has_the_head_of_the_answer(client):
    parts = await chunks(client, seed=5)
    assert len({part["id"] for part in parts}) == 1
    assert {part["object"] for part in parts} == {"text_completion"}
    assert {part["model_version"] for part in parts} == {"1"}
    assert {part["seed"] for part in parts} == {5}
    assert all("usage" not in part for part in parts)


async def test_usage_comes_last_and_alone_when_asked_for(client):
    *parts, last = await chunks(client, stream_options={"include_usage": True})
    assert all(part["usage"] is None for part in parts)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 7
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


@pytest.mark.parametrize(
    ("prompt", "num_prompts"),
    [("hello", 1), ([259], 1), (["hello", "he"], 2), ([[259], [1, 2]], 2), ([[259]], 1)],
)
async def test_the_four_forms_of_a_prompt(client, engine, ids, prompt, num_prompts):
    answer = await complete(client, prompt=prompt)
    assert len(answer["choices"]) == len(engine.submitted) == num_prompts
    assert engine.submitted[0].prompt_token_ids == ids("hello")


async def test_choices_are_numbered_through_all_prompts(client):
    answer = await complete(client, prompt=["a", "b"], n=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    parts = await chunks(client, prompt=["a", "b"], n=2)
    assert {part["choices"][0]["index"] for part in parts} == {0, 1, 2, 3}


async def test_each_prompt_draws_its_own_seed(client):
    answer = await complete(client, prompt=["a", "a"])
    first, second = (choice["seed"] for choice in answer["choices"])
    assert first != second
    assert answer["seed"] == first


async def test_usage_adds_up_over_prompts_and_choices(client):
    usage = (await complete(client, prompt=["hello", "he"], n=2))["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (2, 4 * 6)


async def test_echo_puts_the_prompt_first(client):
    answer = await complete(client, prompt=["hello", "i"], echo=True)
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == ["hellohello world", "ihello world"]


async def test_echo_of_tokens_is_their_text(client):
    answer = await complete(client, prompt=[72, 264], echo=True)
    assert answer["choices"][0]["text"] == "i<|im_end|>hello world"


async def test_echo_comes_once_in_a_stream(client):
    parts = await chunks(client, echo=True)
    assert "".join(part["choices"][0]["text"] for part in parts) == "hellohello world"


async def test_echo_with_logprobs_scores_the_prompt(client):
    choice = (await complete(client, prompt="hello!", echo=True, logprobs=0))["choices"][0]
    logprobs = choice["logprobs"]
    assert logprobs["tokens"][:3] == ["hello", "!", "hello"]
    assert logprobs["token_logprobs"][:2] == [None, -0.5]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"][:3] == [0, 5, 6]
    assert "prompt_logprobs" not in choice


async def test_logprobs_in_parallel_lists(client):
    logprobs = (await complete(client, logprobs=2))["choices"][0]["logprobs"]
    assert len({len(values) for values in logprobs.values()}) == 1
    assert logprobs["tokens"][0] == "hello"
    assert logprobs["top_logprobs"][0] == {"hello": -0.5, " w": -1.0}
    assert logprobs["text_offset"][:2] == [0, 5]


async def test_offsets_count_characters_not_bytes(client, engine, ids):
    engine.script, engine.finish_reason = [ids("é"), ids("🙂a"), ids("b")], "length"
    logprobs = (await complete(client, logprobs=0))["choices"][0]["logprobs"]
    assert logprobs["text_offset"] == [0, 0, 1, 1, 1, 1, 2, 3]


async def test_a_token_that_cannot_be_drawn_has_a_finite_logprob(client, engine, monkeypatch):
    monkeypatch.setattr(
        "tests.api.fakes.logprobs_of", lambda i, _: TokenLogprobs(float("-inf"), [(i, -0.1)])
    )
    logprobs = (await complete(client, logprobs=1))["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"][0] == -9999.0


async def test_prompt_logprobs_by_token_id(client):
    choice = (await complete(client, prompt="hello!", prompt_logprobs=1))["choices"][0]
    first, second = choice["prompt_logprobs"]
    assert first is None
    assert second == {"0": {"logprob": -0.5, "decoded_token": "!"}}


async def test_sixteen_tokens_unless_asked_otherwise(client, engine):
    await complete(client)
    await complete(client, max_tokens=3)
    assert [s.params.max_tokens for s in engine.submitted] == [16, 3]


async def test_every_sampling_option_reaches_the_engine(client, engine):
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.25,
        "repetition_penalty": 1.5,
        "min_tokens": 2,
        "max_tokens": 9,
        "ignore_eos": True,
        "seed": 11,
    }
    await complete(
        client, **fields, logit_bias={"5": -1.5}, stop_token_ids=[7], logprobs=3, prompt_logprobs=4
    )
    params = engine.submitted[0].params
    assert {name: getattr(params, name) for name in fields} == fields
    assert params.logit_bias == {5: -1.5}
    assert params.stop_token_ids == (7,)
    assert (params.num_logprobs, params.num_prompt_logprobs) == (3, 4)


async def test_null_is_the_same_as_left_out(client, engine):
    names = ["n", "max_tokens", "temperature", "top_p", "stop", "seed", "logprobs", "stream"]
    await complete(client, **dict.fromkeys(names), logit_bias=None, suffix=None, tools=None)
    assert engine.submitted[0].params.temperature == 1.0


async def test_special_tokens_in_the_text(client):
    answer = await complete(client, skip_special_tokens=False, include_stop_str_in_output=True)
    assert answer["choices"][0]["text"] == "hello world<|eos|>"


@pytest.mark.parametrize("stop", ["wor", ["wor", "zzz"]])
async def test_stop_strings_in_both_forms(client, stop):
    (choice,) = (await complete(client, stop=stop))["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("hello ", "stop")
    assert choice["stop_reason"] == "wor"
    kept = await complete(client, stop=stop, include_stop_str_in_output=True)
    assert kept["choices"][0]["text"] == "hello wor"


async def test_the_gateways_deadline_is_the_requests(client, engine):
    headers = {"x-envoy-expected-rq-timeout-ms": "2500"}
    response = await client.post(PATH, json={"prompt": "x"}, headers=headers)
    assert response.status_code == 200
    assert engine.submitted[0].deadline is not None


@pytest.mark.parametrize("value", ["", "0", "soon", "-5", "1" * 5000])
async def test_without_a_sensible_word_of_the_gateway_there_is_no_deadline(client, engine, value):
    headers = {"x-envoy-expected-rq-timeout-ms": value}
    response = await client.post(PATH, json={"prompt": "x"}, headers=headers)
    assert response.status_code == 200
    assert engine.submitted[0].deadline is None


async def test_a_prompt_is_scored_without_generating(client, engine):
    fields = {"prompt": "hello w", "max_tokens": 0, "echo": True, "logprobs": 1}
    answer = await complete(client, **fields)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("hello w", "length")
    assert choice["logprobs"]["tokens"] == ["hello", " w"]
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5]
    assert choice["logprobs"]["text_offset"] == [0, 5]
    assert answer["usage"]["completion_tokens"] == 0
    assert engine.submitted[0].params.max_tokens == 1
    (streamed,) = await chunks(client, **fields)
    assert streamed["choices"][0]["logprobs"] == choice["logprobs"]


async def test_each_chunk_has_the_token_counts_if_asked(client):
    options = {"include_usage": True, "continuous_usage_stats": True}
    *parts, last = await chunks(client, stream_options=options)
    counts = [part["usage"]["completion_tokens"] for part in parts]
    assert counts == sorted(counts)
    assert counts[-1] == last["usage"]["completion_tokens"] == 6
    assert all(
        part["usage"] is None
        for part in (
            await chunks(client, stream_options=options | {"continuous_usage_stats": False})
        )[:-1]
    )


async def test_a_truncated_prompt_is_echoed_as_it_was_read(client, engine, ids):
    answer = await complete(client, prompt="abcdef", truncate_prompt_tokens=2, echo=True)
    assert engine.submitted[0].prompt_token_ids == ids("ef")
    assert answer["choices"][0]["text"] == "efhello world"
