"""The same request over HTTP and gRPC: the engine is asked the same, the client told the same."""

from dataclasses import dataclass, field

import httpx
import pytest

from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import Serving, collect, failure, ids, serving, text_of, token_ids_of
from tests.api.http_client import app_of

EOS = 262
ANSWER = [[token_id] for token_id in [*ids("hello world"), EOS]]
FINISH_REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}


@dataclass
class Told:
    """What a client learns, in words that belong to neither protocol."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[list[int]] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)
    stop_reasons: list[str | int | None] = field(default_factory=list)
    usage: tuple[int, int, int] = (0, 0, 0)
    seed: int = 0
    model: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Case:
    """One request in both protocols: `prompt` apart, options have the same names in both."""

    http_prompt: dict
    grpc_prompt: dict
    options: dict = field(default_factory=dict)
    n: int = 1


TEXT = {"prompt": "say hello"}, {"text": "say hello"}
TOKEN_IDS = {"prompt": [5, 6, 263]}, {"token_ids": pb.TokenIds(ids=[5, 6, 263])}
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
CHAT = {"messages": MESSAGES}, {"chat": pb.Chat(messages=MESSAGES)}
OPEN_CHAT = (
    {"messages": MESSAGES, "continue_final_message": True},
    {"chat": pb.Chat(messages=MESSAGES, continue_final_message=True)},
)

CASES = {
    "text": Case(*TEXT),
    "token ids": Case(*TOKEN_IDS),
    "chat": Case(*CHAT),
    "chat with an open end": Case(*OPEN_CHAT),
    "three choices": Case(*TEXT, n=3),
    "stop string": Case(*TEXT, {"stop": ["lo w"]}),
    "stop string kept": Case(*TEXT, {"stop": ["lo w"], "include_stop_str_in_output": True}),
    "stop token": Case(*CHAT, {"stop_token_ids": [EOS]}),
    "special tokens shown": Case(*TEXT, {"skip_special_tokens": False}),
    "numbers": Case(
        *TEXT,
        {
            "temperature": 0.7,
            "top_p": 0.95,
            "top_k": 40,
            "min_p": 0.05,
            "presence_penalty": 0.1,
            "frequency_penalty": -0.3,
            "repetition_penalty": 1.1,
            "min_tokens": 2,
            "max_tokens": 77,
            "seed": 2**63 + 1,
        },
    ),
    "zeros": Case(*TEXT, {"temperature": 0.0, "top_k": 0, "min_tokens": 0, "seed": 0}),
    "no probability": Case(*TEXT, {"top_p": 0.0}),
    "empty stop string": Case(*TEXT, {"stop": ["", "lo w"]}),
    "bias": Case(*TEXT, {"logit_bias": {5: -1.5, 7: 100.0}, "ignore_eos": True}),
}


def http_body(case: Case) -> tuple[str, dict]:
    path = "/v1/chat/completions" if "messages" in case.http_prompt else "/v1/completions"
    # The one default in which the endpoints of OpenAI differ from all else.
    options = {"max_tokens": 100, "seed": 1} | case.options
    if bias := options.pop("logit_bias", None):
        options["logit_bias"] = {str(token_id): value for token_id, value in bias.items()}
    return path, case.http_prompt | options | {"n": case.n, "return_token_ids": True}


def grpc_request(case: Case) -> pb.GenerateRequest:
    options = {"max_tokens": 100, "seed": 1} | case.options
    return pb.GenerateRequest(
        **case.grpc_prompt, sampling=pb.Sampling(**options), n=case.n, return_token_ids=True
    )


def http_client(s: Serving) -> httpx.AsyncClient:
    app = app_of(s.service, s.health)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def over_http(s: Serving, case: Case) -> Told:
    path, body = http_body(case)
    async with http_client(s) as client:
        response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    usage = answer["usage"]
    choices = answer["choices"]
    return Told(
        texts=[c["message"]["content"] if "message" in c else c["text"] for c in choices],
        token_ids=[c["token_ids"] for c in choices],
        finish_reasons=[c["finish_reason"] for c in choices],
        stop_reasons=[c["stop_reason"] for c in choices],
        usage=(
            usage["prompt_tokens"],
            usage["completion_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"],
        ),
        seed=answer["seed"],
        model=(answer["model"], answer["model_version"]),
    )


async def over_grpc(s: Serving, case: Case) -> Told:
    responses = await collect(s.stub.Generate(grpc_request(case)))
    ends = sorted((r for r in responses if r.finish_reason), key=lambda r: r.index)
    start, usage = responses[0].start, responses[-1].usage
    stops = [end.WhichOneof("stop_reason") for end in ends]
    return Told(
        texts=[text_of(responses, index) for index in range(case.n)],
        token_ids=[token_ids_of(responses, index) for index in range(case.n)],
        finish_reasons=[FINISH_REASONS[end.finish_reason] for end in ends],
        stop_reasons=[stop and getattr(end, stop) for end, stop in zip(ends, stops, strict=True)],
        usage=(usage.num_prompt_tokens, usage.num_generated_tokens, usage.num_cached_tokens),
        seed=start.seed,
        model=(start.model, start.model_version),
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_the_same_request_gives_the_same_answer(case):
    engine = FakeEngine(ANSWER)
    async with serving(engine) as s:
        told = [await over_http(s, case), await over_grpc(s, case)]
    assert told[0] == told[1]
    assert told[0].texts[0]
    first, second = engine.submitted
    assert first.prompt_token_ids == second.prompt_token_ids
    assert (first.params, first.n) == (second.params, second.n)
    assert [entry[1:] for entry in engine.aborted[: len(engine.aborted) // 2]] == [
        entry[1:] for entry in engine.aborted[len(engine.aborted) // 2 :]
    ]


@pytest.mark.parametrize(
    "headers", [{"x-gateway-inference-fairness-id": "tenant"}, {"authorization": "Bearer sk-1"}, {}]
)
async def test_a_client_is_one_source_over_both(headers):
    engine = FakeEngine(ANSWER)
    async with serving(engine) as s, http_client(s) as client:
        path, body = http_body(CASES["text"])
        await client.post(path, json=body, headers=headers)
        metadata = tuple(headers.items())
        await collect(s.stub.Generate(grpc_request(CASES["text"]), metadata=metadata))
    assert engine.submitted[0].source == engine.submitted[1].source != ""


INVALID = {
    "empty prompt": Case({"prompt": ""}, {"text": ""}),
    "no messages": Case({"messages": []}, {"chat": pb.Chat()}),
    "unknown token": Case({"prompt": [266]}, {"token_ids": pb.TokenIds(ids=[266])}),
    "long prompt": Case({"prompt": "a" * 999}, {"text": "a" * 999}),
    "no choices": Case(*TEXT, n=0),
    "too many choices": Case(*TEXT, n=9),
    "too many sequences": Case(*TEXT, n=65),
    "too hot": Case(*TEXT, {"temperature": 2.5}),
    "too much probability": Case(*TEXT, {"top_p": 1.5}),
    "more than fits": Case(*TEXT, {"max_tokens": 256}),
    "bias of no token": Case(*TEXT, {"logit_bias": {300: 1.0}}),
}


@pytest.mark.parametrize("case", INVALID.values(), ids=INVALID)
async def test_the_same_fault_is_told_in_the_same_words(case):
    engine = FakeEngine(ANSWER)
    async with serving(engine) as s, http_client(s) as client:
        path, body = http_body(case)
        answer = await client.post(path, json=body)
        error = await failure(s.stub.Generate(grpc_request(case)))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == error.details()
    assert not engine.submitted
