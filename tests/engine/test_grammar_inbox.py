"""Requests with a grammar wait for their matchers; everything else passes them."""

from __future__ import annotations

import queue
import threading

import pytest

from server.engine.grammar_inbox import GrammarInbox
from server.link.frames import Abort, Submit, Vocabulary
from server.link.sampling import Grammar, SamplingParams
from tests.grammar.vocabularies import EOS, TOKENS, VOCAB_SIZE, ids

VOCABULARY = Vocabulary(tokens=TOKENS, special_token_ids=[EOS])


class FakeLoop:
    """Keeps what it gets, in order."""

    def __init__(self):
        self.got = queue.Queue()

    def receive(self, client, frame, matchers=()):
        self.got.put((client, frame, list(matchers)))

    def refuse(self, client, submit, message):
        self.got.put((client, submit, message))

    def disconnect(self, client):
        self.got.put((client, None, []))

    def next(self):
        return self.got.get(timeout=60)


@pytest.fixture
def loop():
    return FakeLoop()


@pytest.fixture
def inbox(loop):
    inbox = GrammarInbox(loop, VOCAB_SIZE, (EOS,))
    inbox.receive(1, VOCABULARY)
    yield inbox
    inbox.close()


def submit(request_id, text="ab", **fields):
    grammar = Grammar("regex", text) if text else None
    params = SamplingParams(max_tokens=8, grammar=grammar)
    options = {"n": 1, "arrival": 0.0} | fields
    return Submit(request_id=request_id, prompt_token_ids=[1], params=params, **options)


def hold(inbox, monkeypatch):
    """Compile nothing before the returned event is set."""
    release, prepare = threading.Event(), inbox._prepare

    def wait(client, frame):
        release.wait(60)
        prepare(client, frame)

    monkeypatch.setattr(inbox, "_prepare", wait)
    return release


def test_every_choice_gets_a_matcher_of_its_own(inbox, loop):
    inbox.receive(1, submit(1, n=3))
    _, frame, matchers = loop.next()
    assert frame.request_id == 1
    assert len({id(matcher.inner) for matcher in matchers}) == 3


def test_a_resumed_choice_gets_its_matcher_past_its_tokens(inbox, loop):
    inbox.receive(1, submit(1, n=3, received=[ids("a"), None, []]))
    _, _, matchers = loop.next()
    assert [matcher and matcher.num_tokens for matcher in matchers] == [1, None, 0]


def test_received_tokens_that_do_not_fit_are_refused(inbox, loop):
    inbox.receive(1, submit(1, received=[ids("x")]))
    _, frame, message = loop.next()
    assert frame.request_id == 1
    assert "cannot go on after 0 tokens" in message


def test_what_cannot_be_compiled_is_refused(inbox, loop):
    inbox.receive(1, submit(1, "("))
    assert "the grammar cannot be compiled: " in loop.next()[2]


def test_without_a_vocabulary_a_grammar_is_refused(loop):
    inbox = GrammarInbox(loop, VOCAB_SIZE, (EOS,))
    inbox.receive(1, submit(1))
    assert "does not know the vocabulary" in loop.next()[2]
    inbox.close()


def test_other_requests_pass_and_an_abort_follows_its_own(inbox, loop, monkeypatch):
    release = hold(inbox, monkeypatch)
    inbox.receive(1, submit(1))
    inbox.receive(1, Abort(request_id=1))
    inbox.receive(1, submit(2, ""))
    inbox.receive(2, Abort(request_id=1))
    assert [loop.next()[:2] for _ in range(2)] == [
        (1, submit(2, "")),
        (2, Abort(request_id=1)),
    ]
    release.set()
    assert [loop.next()[1] for _ in range(2)] == [submit(1), Abort(request_id=1)]


def test_what_is_held_of_a_client_that_is_gone_is_dropped(inbox, loop, monkeypatch):
    release = hold(inbox, monkeypatch)
    inbox.receive(1, submit(1))
    inbox.receive(2, submit(1))
    inbox.disconnect(1)
    release.set()
    assert [loop.next()[0] for _ in range(2)] == [1, 2]
    assert loop.got.empty()
