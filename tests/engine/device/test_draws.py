"""Requests with a grammar on a real model: what they give, and what they leave alone."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import jsonschema
import msgspec
import pytest

from server.api.tokenizers.tokenizer import Tokenizer
from server.grammar.compiler import Compiler
from server.link.frames import Vocabulary
from server.link.sampling import Grammar
from tests.engine.device.test_identity import (
    CHECKPOINT,
    PENALTIES,
    Session,
    build,
    fillers,
    make_request,
)

EOS = 1
# Small models love blanks.
SCHEMA = {
    "x-guidance": {"whitespace_flexible": False},
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "sizes": {"type": "array", "items": {"enum": [1, 22, 333]}, "maxItems": 3},
        "kind": {"enum": ["block", "slot", None]},
    },
    "required": ["name", "sizes", "kind"],
    "additionalProperties": False,
}
JSON = Grammar("json_schema", json.dumps(SCHEMA))
WORDS = Grammar("regex", "(red|green|blue)( (red|green|blue)){0,9}")


@cache
def tokenizer():
    return Tokenizer.load(CHECKPOINT)


@cache
def compiler():
    ids = range(tokenizer().vocab_size)
    vocabulary = Vocabulary(
        tokens=list(map(tokenizer().token_bytes, ids)),
        special_token_ids=sorted(tokenizer().special_ids),
    )
    return Compiler(vocabulary, 3072, (EOS,))


class Constrained(Session):
    """A session whose requests get the matchers of their grammars."""

    def __init__(self, runner, config, **options):
        super().__init__(runner, config, **options)
        self.matchers = []
        receive = self.engine.receive
        self.engine.receive = lambda client, submit: receive(client, submit, self.match(submit))

    def match(self, submit):
        if submit.params.grammar is None:
            return ()
        received = submit.received or [[]] * submit.n
        matchers = [compiler().compile(submit.params.grammar) for _ in received]
        for matcher, token_ids in zip(matchers, received, strict=True):
            matcher.take(token_ids)
        self.matchers += matchers
        return matchers

    def events(self, request_id):
        events = [event for frame in self.frames for event in frame.events]
        return [event for event in events if event.request_id == request_id]

    def end(self, request_id):
        return self.events(request_id)[-1].finish_reason


def ask(grammar, start=0, length=30, *, ignore_eos=False, **params):
    options = {"temperature": 0.0, "max_tokens": 90} | params
    request = make_request(start, length, grammar=grammar, **options)
    return replace(request, params=msgspec.structs.replace(request.params, ignore_eos=ignore_eos))


def text(token_ids):
    return tokenizer().decode([token for token in token_ids if token != EOS])


OPTIONS = [
    {},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.8, "top_p": 0.9, "top_k": 5, "min_p": 0.05, "seed": 4},
    {"temperature": 1.0, "seed": 5, **PENALTIES, "logit_bias": {40: 20.0}},
]
REQUESTS = [ask(JSON, 40 * i, 30 + i, **options) for i, options in enumerate(OPTIONS)]


@pytest.fixture(scope="module")
def base():
    return build()


@pytest.fixture(scope="module")
def alone(base):
    """What each of the requests gives without overlap, one by one."""
    return [Constrained(*base, overlap=False).run([request])[0, 0] for request in REQUESTS]


def test_every_text_is_of_its_schema(alone):
    for token_ids in alone:
        assert token_ids[-1] == EOS, text(token_ids)
        jsonschema.validate(json.loads(text(token_ids)), SCHEMA)


def test_with_overlap_and_beside_others_each_gives_the_same(base, alone):
    session = Constrained(*base)
    tokens = session.run([*REQUESTS, *fillers(4)])
    assert [tokens[i, 0] for i in range(len(REQUESTS))] == alone
    assert [session.end(i) for i in range(len(REQUESTS))] == ["stop"] * len(REQUESTS)


def test_rows_without_a_grammar_give_what_they_give_without_neighbours(base):
    free = fillers(4)
    tokens = Constrained(*base).run([*free, *REQUESTS])
    expected = Session(*base).run(free)
    assert [tokens[i, 0] for i in range(4)] == [expected[i, 0] for i in range(4)]


def test_a_preempted_choice_goes_on_where_its_grammar_was(base, alone):
    session = Constrained(*base, num_blocks=17)
    tokens = session.run([*REQUESTS, *fillers(4)])
    assert session.observer.num_preempted > 0
    assert [tokens[i, 0] for i in range(len(REQUESTS))] == alone


@pytest.mark.parametrize("index", [0, 3])
def test_a_resumed_choice_gives_the_rest(base, alone, index):
    whole, cuts = alone[index], range(0, len(alone[index]), 5)
    requests = [replace(REQUESTS[index], received=[whole[:cut]]) for cut in cuts]
    rests = Constrained(*base).run(requests)
    assert [whole[:cut] + rests[i, 0] for i, cut in enumerate(cuts)] == [whole] * len(cuts)


def test_draws_of_one_request_follow_their_grammar_each_by_itself(base):
    request = ask(WORDS, temperature=1.0, seed=8)
    tokens = Constrained(*base).run([replace(request, n=3)])
    texts = [text(tokens[0, i]) for i in range(3)]
    assert len(set(texts)) > 1
    assert all(set(each.split()) <= {"red", "green", "blue"} for each in texts)


def test_min_tokens_makes_a_text_go_on_where_it_may(base):
    short = Constrained(*base).run([ask(WORDS, logit_bias={EOS: 100.0})])[0, 0]
    session = Constrained(*base)
    long = session.run([ask(WORDS, logit_bias={EOS: 100.0}, min_tokens=len(short) + 6)])[0, 0]
    assert len(long) >= len(short) + 6
    assert session.end(0) == "stop"


@pytest.mark.parametrize("options", [{"ignore_eos": True}, {"min_tokens": 20}])
def test_a_finished_text_ends_its_choice_whatever_else_was_asked_for(base, options):
    session = Constrained(*base)
    tokens = session.run([ask(Grammar("choice", '["one", "two"]'), **options)])[0, 0]
    assert text(tokens) in ("one", "two")
    assert (tokens[-1], session.end(0)) == (EOS, "stop")


def test_ignoring_the_end_token_takes_the_longest_text(base):
    tokens = Constrained(*base).run([ask(Grammar("regex", "a{0,12}"), ignore_eos=True)])[0, 0]
    assert text(tokens) == "a" * 12


def test_a_stop_token_ends_a_choice_in_the_middle_of_its_text(base, alone):
    stop = alone[0][4]
    session = Constrained(*base)
    tokens = session.run([ask(JSON, stop_token_ids=(stop,))])[0, 0]
    assert tokens == alone[0][: alone[0].index(stop) + 1]
    assert session.end(0) == "stop"


def test_log_probabilities_are_the_models_own(base):
    free = make_request(0, 30, temperature=0.0, max_tokens=1, num_logprobs=20)
    session = Constrained(*base)
    session.run([free, ask(Grammar("regex", "[0-9]{3}"), num_logprobs=20)])
    own = session.events(0)[0].logprobs[0]
    constrained = session.events(1)[0].logprobs[0]
    assert [token for token, _ in constrained.top] == [token for token, _ in own.top]
    assert constrained.logprob < own.logprob


def test_a_grammar_that_cannot_go_on_ends_its_own_choice_only(base, alone):
    session = Constrained(*base)
    match = session.match

    def broken(submit):
        matchers = match(submit)
        if submit.request_id == 1:
            matchers[0].take([7])
        return matchers

    session.match = broken
    tokens = session.run(REQUESTS[:3])
    assert session.events(1)[-1].error == "invalid_request"
    assert "the grammar cannot go on after 0 tokens" in session.events(1)[-1].message
    assert [tokens[0, 0], tokens[2, 0]] == [alone[0], alone[2]]


@pytest.mark.parametrize(
    "mesh",
    [
        {"tensor_parallel_size": 2},
        {"data_parallel_size": 2},
        {"exact": True},
    ],
    ids=["sharded vocabulary", "two data ranks", "exact"],
)
def test_meshes_and_exact_programs_follow_grammars(mesh):
    session = Constrained(*build(**mesh))
    tokens = session.run([*REQUESTS, *fillers(3)])
    for i in range(len(REQUESTS)):
        jsonschema.validate(json.loads(text(tokens[i, 0])), SCHEMA)
        assert session.end(i) == "stop"
