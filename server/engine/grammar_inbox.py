"""Compiles the grammars of requests before the step loop gets the requests.

A request waits here while its grammar is compiled, and so do the frames about it that follow. Other
requests pass. Knows neither schedules nor tokens' meanings.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from server.grammar.compiler import Compiler
from server.grammar.grammar_error import SUBJECT, GrammarError
from server.grammar.matcher import Matcher
from server.link.frames import Abort, Submit, ToEngine, Vocabulary

# Compiling must leave cores for the step loop.
_THREADS = 2


class StepLoop(Protocol):
    """What takes the frames in the end."""

    def receive(
        self, client: int, frame: ToEngine, matchers: Sequence[Matcher | None] = ()
    ) -> None: ...

    def refuse(self, client: int, submit: Submit, message: str) -> None: ...

    def disconnect(self, client: int) -> None: ...


class GrammarInbox:
    """Any thread may call every method. The frames about one request keep their order.

    The first vocabulary counts: all API processes have the same tokenizer.
    """

    def __init__(
        self, step_loop: StepLoop, vocab_size: int, eos_token_ids: tuple[int, ...]
    ) -> None:
        self._step_loop = step_loop
        self._vocab_size, self._eos_token_ids = vocab_size, eos_token_ids
        self._pool = ThreadPoolExecutor(_THREADS, "grammar")
        self._compiler: Future[Compiler] | None = None
        self._held: dict[tuple[int, int], list[Abort]] = {}
        self._lock = threading.Lock()

    def receive(self, client: int, frame: ToEngine) -> None:
        """Take a frame from a client."""
        with self._lock:
            match frame:
                case Vocabulary():
                    self._learn(frame)
                case Submit() if frame.params.grammar is not None:
                    self._held[client, frame.request_id] = []
                    self._pool.submit(self._prepare, client, frame)
                case Abort() if (client, frame.request_id) in self._held:
                    self._held[client, frame.request_id].append(frame)
                case _:
                    self._step_loop.receive(client, frame)

    def disconnect(self, client: int) -> None:
        """The client is gone, and what is held of it too."""
        with self._lock:
            for key in [key for key in self._held if key[0] == client]:
                del self._held[key]
            self._step_loop.disconnect(client)

    def close(self) -> None:
        """Compile nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _learn(self, vocabulary: Vocabulary) -> None:
        if self._compiler is None and self._eos_token_ids:
            self._compiler = self._pool.submit(
                Compiler, vocabulary, self._vocab_size, self._eos_token_ids
            )

    def _prepare(self, client: int, submit: Submit) -> None:
        matchers, fault = [], ""
        try:
            matchers = self._matchers(submit)
        except GrammarError as error:
            fault = f"{SUBJECT} cannot be compiled: {error}"
        except Exception as error:  # Whatever it is, the client must get an answer.
            fault = f"{SUBJECT} cannot be compiled: {type(error).__name__}"
        with self._lock:
            self._release(client, submit, matchers, fault)

    def _release(
        self, client: int, submit: Submit, matchers: list[Matcher | None], fault: str
    ) -> None:
        aborts = self._held.pop((client, submit.request_id), None)
        if aborts is None:  # The client has disconnected.
            return
        fault = fault or next((each.error for each in matchers if each and each.error), "")
        if fault:
            self._step_loop.refuse(client, submit, fault)
            return
        self._step_loop.receive(client, submit, matchers)
        for abort in aborts:
            self._step_loop.receive(client, abort)

    def _matchers(self, submit: Submit) -> list[Matcher | None]:
        """One per choice, past the tokens that another replica has generated."""
        if self._compiler is None or submit.params.grammar is None:
            raise GrammarError("the server does not know the vocabulary")
        first = self._compiler.result().compile(submit.params.grammar)
        received: list[list[int] | None] = submit.received or [[] for _ in range(submit.n)]
        matchers = [None if token_ids is None else first.copy() for token_ids in received]
        for matcher, token_ids in zip(matchers, received, strict=True):
            if matcher is not None:
                matcher.take(token_ids or ())
        return matchers
