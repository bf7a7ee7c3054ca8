"""Allowed tokens and bad words on their way to the engine: grammars, over both transports."""

from __future__ import annotations

import httpx
import pytest

from server.api.requests.generation import GenerateRequest, Sampling
from server.errors import ApiError
from server.grammar.token_rules import only_tokens, without_sequences
from server.link.sampling import Grammar
from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import collect, serving
from tests.api.http_client import app_of

[EOS] = FakeEngine.EOS


def ask(**sampling):
    return GenerateRequest(prompt="hello", sampling=Sampling(**sampling))


async def asked(service, engine, **sampling):
    async with await service.start(ask(**sampling)):
        return engine.submitted[-1].params


async def test_allowed_tokens_are_a_grammar_of_them(service, engine):
    params = await asked(service, engine, allowed_token_ids=(5, 6, EOS))
    assert (params.grammar, params.ignore_eos) == (only_tokens((5, 6, EOS), [EOS]), False)


async def test_end_tokens_that_are_not_allowed_are_ignored(service, engine):
    params = await asked(service, engine, allowed_token_ids=(5, 6))
    assert (params.grammar, params.ignore_eos) == (only_tokens((5, 6), [EOS]), True)


async def test_bad_words_are_forbidden_at_the_start_and_after_a_space(service, engine, tokenizer):
    params = await asked(service, engine, bad_words=("cat", " dog"))
    texts = ("cat", " cat", " dog")
    expected = without_sequences(tokenizer.encode(each, add_special_tokens=False) for each in texts)
    assert (params.grammar, params.ignore_eos) == (expected, False)


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ({"allowed_token_ids": (10**6,)}, "allowed_token_ids holds 1000000"),
        ({"allowed_token_ids": (5,) * 1000}, "allowed_token_ids must hold at most"),
        ({"bad_words": ("",)}, "a bad word must have 1 to 64 characters"),
        ({"bad_words": ("x" * 65,)}, "a bad word must have 1 to 64 characters"),
        ({"bad_words": ("x",) * 129}, "bad_words must hold at most 128"),
        ({"bad_words": ("x",), "allowed_token_ids": (5,)}, "cannot go with bad_words"),
        ({"bad_words": ("x",), "grammar": Grammar("regex", "a")}, "cannot go with grammar"),
    ],
)
async def test_what_cannot_be_followed_is_refused_by_name(service, engine, sampling, words):
    with pytest.raises(ApiError, match=words):
        await service.start(ask(**sampling))
    assert engine.submitted == []


async def test_both_transports_ask_the_same_of_the_engine():
    options = [{"allowed_token_ids": [5, 6]}, {"bad_words": ["cat"]}]
    async with serving(FakeEngine([[262]])) as s:
        transport = httpx.ASGITransport(app_of(s.service, s.health))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for option in options:
                response = await client.post("/v1/completions", json={"prompt": "x", **option})
                assert response.status_code == 200, response.text
                message = pb.GenerateRequest(text="x", sampling=pb.Sampling(**option))
                await collect(s.stub.Generate(message))
            empty = {"prompt": "x", "allowed_token_ids": []}
            response = await client.post("/v1/completions", json=empty)
            assert "must not be empty" in response.json()["error"]["message"]
        over_http, over_grpc = s.engine.submitted[::2], s.engine.submitted[1::2]
    assert [each.params.grammar for each in over_http] == [
        each.params.grammar for each in over_grpc
    ]
    assert all(each.params.grammar for each in over_http)
