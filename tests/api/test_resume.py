"""A stream that broke after k tokens and is resumed reads as if it had not, over both protocols."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

import httpx
import msgspec
import pytest

from server.api.requests.generation import GenerateRequest, ResumePoint, Sampling
from server.errors import ApiError, ErrorKind
from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import collect, failure, ids, serving
from tests.api.http.asgi import events
from tests.api.http_client import app_of

EOS = 262
TOKENS = [*ids("hello wörld, hello 🌍 hello wor the end"), EOS]
SCRIPT = [[token_id] for token_id in TOKENS]
CASES = {
    "plain": {},
    "stop string": {"stop": ["hello wor the"]},
    "stop string that is kept": {"stop": ["rld"], "include_stop_str_in_output": True},
    "stop string before the least length": {"stop": ["lo"], "min_tokens": 5},
    "stop token": {"stop_token_ids": [EOS]},
    "ended by length": {"max_tokens": 9},
    "log probabilities": {"logprobs": 2},
    "special tokens shown": {"skip_special_tokens": False, "include_stop_str_in_output": True},
}


@dataclass
class Told:
    """A stream in words of neither protocol. `pieces` are (token ids, text, log probabilities)."""

    pieces: list[tuple[list[int], str, list]] = field(default_factory=list)
    finish: tuple[str, object] | None = None
    usage: tuple[int, int] = (0, 0)
    seed: int = 0
    version: str = ""
    exactness: str = ""

    @property
    def token_ids(self):
        return [token_id for token_ids, _, _ in self.pieces for token_id in token_ids]

    @property
    def text(self):
        return "".join(text for _, text, _ in self.pieces)

    @property
    def logprobs(self):
        return [entry for _, _, entries in self.pieces for entry in entries]


async def over_grpc(s, options, received=None):
    request = pb.GenerateRequest(
        text="say it", sampling=pb.Sampling(seed=5, **options), return_token_ids=True
    )
    if received is not None:
        request.resume.model_version = "1"
        request.resume.received.add(ids=received)
    told = Told()
    for response in await collect(s.stub.Generate(request)):
        if response.HasField("start"):
            told.seed, told.version = response.start.seed, response.start.model_version
            told.exactness = response.start.resume_exactness
        logprobs = [(entry.token, entry.logprob) for entry in response.logprobs]
        told.pieces.append((list(response.token_ids), response.text, logprobs))
        if response.finish_reason:
            stop = response.WhichOneof("stop_reason")
            reason = pb.FinishReason.Name(response.finish_reason).split("_")[-1].lower()
            told.finish = (reason, stop and getattr(response, stop))
        usage = response.usage
        told.usage = (usage.num_prompt_tokens, usage.num_generated_tokens)
    return told


async def over_http(s, options, received=None):
    body = {
        "prompt": "say it",
        "seed": 5,
        "max_tokens": 100,
        "stream": True,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
        **options,
    }
    if received is not None:
        body["resume"] = {"model_version": "1", "token_ids": [received]}
    app = app_of(s.service, s.health)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    *chunks, last, _ = events(response.content)
    told = Told(seed=last["seed"], version=last["model_version"])
    told.usage = (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"])
    told.exactness = chunks[0].get("resume_exactness", "")
    for chunk in chunks:
        [choice] = chunk["choices"]
        lists = choice["logprobs"] or {"tokens": [], "token_logprobs": [], "text_offset": []}
        logprobs = zip(lists["tokens"], lists["token_logprobs"], lists["text_offset"], strict=True)
        told.pieces.append((choice["token_ids"], choice["text"], list(logprobs)))
        if choice["finish_reason"]:
            told.finish = (choice["finish_reason"], choice["stop_reason"])
    return told


@pytest.mark.parametrize("read", [over_grpc, over_http])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
async def test_a_resumed_stream_reads_as_if_it_had_not_broken_after_any_number_of_tokens(
    read, options
):
    num_tokens = options.get("max_tokens", len(TOKENS))
    reason = "length" if "max_tokens" in options else "stop"
    # Slow at first, so that every token is a message of its own, where the stream can break.
    engine = FakeEngine(SCRIPT[:num_tokens], finish_reason=reason, step_seconds=0.003)
    async with serving(engine) as s:
        whole = await read(s, options)
        engine.step_seconds = 0.0
        counts = accumulate(len(token_ids) for token_ids, _, _ in whole.pieces)
        for cut, num_tokens in enumerate(counts, start=1):
            rest = await read(s, options, whole.token_ids[:num_tokens])
            before = Told(whole.pieces[:cut])
            assert before.token_ids + rest.token_ids == whole.token_ids
            assert before.text + rest.text == whole.text
            assert before.logprobs + rest.logprobs == whole.logprobs
            assert (rest.finish, rest.usage) == (whole.finish, whole.usage)
            assert (rest.seed, rest.version) == (5, "1")
    assert len(whole.pieces) > 4


@pytest.mark.parametrize("read", [over_grpc, over_http])
@pytest.mark.parametrize(("is_exact", "word"), [(False, "consistent"), (True, "exact")])
async def test_only_a_resumed_stream_says_how_exact_its_rest_is(read, is_exact, word):
    engine = FakeEngine(SCRIPT)
    engine.info = msgspec.structs.replace(engine.info, is_exact=is_exact)
    async with serving(engine) as s:
        assert (await read(s, {})).exactness == ("exact" if is_exact else "")
        assert (await read(s, {}, TOKENS[:3])).exactness == word


def request(*received, version="1", n=1, seed=5, **options):
    return GenerateRequest(
        prompt="say it",
        n=n,
        sampling=Sampling(seed=seed, **options),
        resume=ResumePoint(version=version, received=tuple(map(tuple, received))),
    )


@pytest.fixture
def engine():
    return FakeEngine(SCRIPT)


async def test_the_engine_is_asked_for_what_is_left_of_each_choice(service, engine):
    resumed = request(TOKENS[:3], TOKENS, n=3)
    async with await service.start(resumed) as generation:
        deltas = [delta async for delta in generation]
    assert engine.submitted[0].received == [tuple(TOKENS[:3]), None, ()]
    token_ids = [[t for d in deltas if d.index == i for t in d.token_ids] for i in range(3)]
    assert token_ids == [TOKENS[3:], [], TOKENS]
    assert generation.usage.num_generated_tokens == 3 * len(TOKENS)
    assert [d.finish_reason for d in deltas if d.finish_reason] == ["stop"] * 3


async def test_a_stream_that_had_ended_is_told_so_without_the_engine(service, engine):
    async with await service.start(request(TOKENS)) as generation:
        [delta] = [delta async for delta in generation]
    assert (delta.text, delta.token_ids, delta.finish_reason) == ("", [], "stop")
    assert engine.submitted == []


async def test_what_the_prompt_was_like_is_not_told_again(service, engine):
    async with await service.start(request(TOKENS[:3], prompt_logprobs=2)) as generation:
        assert [delta async for delta in generation]
    assert generation.prompt_logprobs is None
    assert engine.submitted[0].params.num_prompt_logprobs == -1


async def test_a_version_that_is_not_served_is_refused_by_name(service, engine):
    with pytest.raises(ApiError) as caught:
        await service.start(request(TOKENS[:3], version="2"))
    assert caught.value.kind is ErrorKind.VERSION_GONE
    assert caught.value.message == (
        "the stream began on version '2' of the model, but this server has '1'; another replica "
        "may still have it"
    )
    assert engine.refused == ["version_gone"]


@pytest.mark.parametrize(
    ("resumed", "words"),
    [
        (request(TOKENS[:3], seed=None), "resume needs seed"),
        (request(TOKENS[:3], TOKENS[:3]), "resume has more choices than n, which is 1"),
        (request([999]), "resume holds 999, outside the vocabulary"),
        (request([*TOKENS, 5]), "resume has tokens of choice 0 after the choice's end"),
        (request(TOKENS[:9], max_tokens=8), "resume has tokens of choice 0 after the choice's end"),
    ],
)
async def test_what_no_stream_can_have_received_is_refused(service, engine, resumed, words):
    with pytest.raises(ApiError) as caught:
        await service.start(resumed)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert words in caught.value.message
    assert engine.submitted == []


async def test_grpc_says_that_the_version_is_gone():
    async with serving(FakeEngine(SCRIPT)) as s:
        resumed = pb.GenerateRequest(text="x", sampling=pb.Sampling(seed=1))
        resumed.resume.model_version = "7"
        error = await failure(s.stub.Generate(resumed))
    assert error.code().name == "FAILED_PRECONDITION"
    assert "version '7'" in error.details()


CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hello"}]


async def chat_chunks(client, **fields):
    body = {"messages": MESSAGES, "stream": True, "seed": 5, "return_token_ids": True, **fields}
    response = await client.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    return events(response.content)[:-1]


async def test_a_chat_goes_on_without_another_opening(http_client, engine):
    opening, *whole = await chat_chunks(http_client)
    assert opening["choices"][0]["delta"] == {"content": "", "role": "assistant"}
    prompt = opening["prompt_token_ids"]
    resume = {"model_version": "1", "token_ids": [TOKENS[:4]], "prompt_token_ids": prompt}
    rest = await chat_chunks(http_client, resume=resume)
    assert [chunk["choices"] for chunk in rest] == [chunk["choices"] for chunk in whole[4:]]
    assert engine.submitted[1].prompt_token_ids == prompt


@pytest.fixture
async def http_client(service, health):
    app = app_of(service, health)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": ["a", "b"], "stream": True, "seed": 1}, "resume takes one prompt"),
        ({"prompt": "a", "seed": 1}, "resume needs stream to be true"),
    ],
)
async def test_http_refuses_what_it_cannot_resume(http_client, fields, words):
    body = {**fields, "resume": {"model_version": "1", "token_ids": [[5]]}}
    response = await http_client.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == words
