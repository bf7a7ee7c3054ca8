"""A grammar on its way to the engine: compiled first, refused with the name it was asked by."""

from __future__ import annotations

import json

import httpx
import msgspec
import pytest

from server.api.requests.generation import GenerateRequest, ResumePoint, Sampling
from server.errors import ApiError
from server.link.sampling import Grammar
from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import collect, failure, serving
from tests.api.http_client import app_of

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
JSON = Grammar("json_schema", json.dumps(SCHEMA, separators=(",", ":")))


def ask(grammar, **sampling):
    return GenerateRequest(
        prompt="hello",
        sampling=Sampling(grammar=grammar, **sampling),
        grammar_asked_as="guided_json",
    )


async def test_the_engine_gets_what_has_compiled(service, engine):
    async with await service.start(ask(JSON)):
        assert engine.submitted[0].params.grammar == JSON


async def test_what_cannot_be_compiled_reaches_no_engine(service, engine):
    with pytest.raises(ApiError) as refused:
        await service.start(ask(Grammar("json_schema", '{"type": "strin"}')))
    assert refused.value.param == "guided_json"
    assert refused.value.message.startswith("guided_json cannot be compiled: ")
    assert "strin" in refused.value.message
    assert engine.submitted == []


async def test_a_model_without_end_tokens_takes_no_grammar(service, engine):
    engine.info = msgspec.structs.replace(engine.info, eos_token_ids=())
    with pytest.raises(ApiError, match="name no end token"):
        await service.start(ask(JSON))


async def test_a_tokenizer_that_no_compiler_takes_serves_requests_without_a_grammar(
    service, engine, caplog
):
    engine.info = msgspec.structs.replace(engine.info, eos_token_ids=(10**6,))
    await service.grammars.prepare(engine.info)
    assert "structured output is off" in caplog.text
    with pytest.raises(ApiError, match="not supported with this model's tokenizer"):
        await service.start(ask(JSON))
    async with await service.start(ask(None)):
        assert len(engine.submitted) == 1


async def test_a_grammar_is_compiled_once(service, monkeypatch):
    async with await service.start(ask(JSON)):
        pass
    compiler = await service.grammars._compiler
    monkeypatch.setattr(type(compiler), "compile", None)
    async with await service.start(ask(JSON)):
        pass


async def test_a_resumed_choice_that_its_grammar_ended_stays_ended(service, engine):
    """Under a grammar an end token ends a choice, even one that was to ignore it."""
    resume = ResumePoint(version="1", received=((*b"{}", *FakeEngine.EOS),))
    sampling = Sampling(grammar=JSON, ignore_eos=True, min_tokens=9, seed=1)
    request = GenerateRequest(prompt="hello", sampling=sampling, resume=resume)
    async with await service.start(request) as generation:
        [delta] = await generation.take()
    assert delta.finish_reason == "stop"
    assert engine.submitted == []


BODIES = [
    ({"structured_outputs": {"json": SCHEMA}}, pb.Grammar(json_schema=JSON.text)),
    ({"response_format": {"type": "json_object"}}, pb.Grammar(json_object=True)),
    ({"guided_regex": "a+"}, pb.Grammar(regex="a+")),
    ({"guided_choice": ["a", "b"]}, pb.Grammar(choice=pb.Texts(texts=["a", "b"]))),
    ({"guided_grammar": 'start: "a"'}, pb.Grammar(lark='start: "a"')),
    ({"response_format": {"type": "text"}}, pb.Grammar(json_object=False)),
]


async def test_both_transports_ask_the_same_of_the_engine():
    async with serving(FakeEngine([[262]])) as s:
        app = app_of(s.service, s.health)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for body, message in BODIES:
                chat = {"messages": [{"role": "user", "content": "x"}]}
                for path, prompt in (("completions", {"prompt": "x"}), ("chat/completions", chat)):
                    response = await client.post(f"/v1/{path}", json=prompt | body)
                    assert response.status_code == 200, response.text
                request = pb.GenerateRequest(text="x", sampling=pb.Sampling(grammar=message))
                await collect(s.stub.Generate(request))
        asked = [submission.params.grammar for submission in s.engine.submitted]
        for i in range(0, len(asked), 3):
            assert _meaning(asked[i]) == _meaning(asked[i + 1]) == _meaning(asked[i + 2])
        assert [grammar and grammar.kind for grammar in asked[::3]] == [
            *("json_schema", "json_object", "regex", "choice", "lark"),
            None,
        ]


def _meaning(grammar):
    is_json = grammar is not None and grammar.kind in ("json_schema", "choice")
    return (grammar.kind, json.loads(grammar.text)) if is_json else grammar


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (pb.Grammar(), "the grammar has no kind"),
        (pb.Grammar(regex="("), "grammar cannot be compiled"),
        (pb.Grammar(choice=pb.Texts()), "1 to 10000 entries"),
    ],
)
async def test_grpc_refuses_what_cannot_be_met(grammar, words):
    async with serving(FakeEngine([[262]])) as s:
        request = pb.GenerateRequest(text="x", sampling=pb.Sampling(grammar=grammar))
        error = await failure(s.stub.Generate(request))
        assert error.code().name == "INVALID_ARGUMENT"
        assert words in error.details()
