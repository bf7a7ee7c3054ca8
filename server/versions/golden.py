"""Has the engine itself generate for prompts whose continuation is known, and compares.

The prompts run as requests of the engine's own client, by the programs that serve everyone else.
Knows requests and tokens; neither weights nor what a mismatch leads to.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable
from itertools import count

from models.checkpoint.manifest import Golden, GoldenPrompt
from server.link.frames import Abort, Step, Submit, TokenEvent, TokenLogprobs
from server.link.sampling import MAX_LOGPROBS, SamplingParams


class GoldenError(Exception):
    """Golden prompts that were not continued as published, or not at all; the message says how."""


class GoldenClient:
    """The engine's own client. Frames come in from the step loop; one other thread asks."""

    def __init__(self, send: Callable[[Submit | Abort], None]) -> None:
        self._send = send
        self._request_ids = count(1)
        self._events: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()

    def receive(self, frame: Step) -> None:
        """Take what the step loop sends."""
        for event in frame.events:
            self._events.put(event)

    def check(self, version: str, golden: Golden, timeout: float) -> None:
        """Raise GoldenError unless every prompt is continued as published, within the tolerance.

        `timeout` is in seconds for all prompts together.
        """
        lengths = [(prompt.prompt_token_ids, len(prompt.token_ids)) for prompt in golden.prompts]
        answers = self.generate(version, lengths, timeout)
        for number, (prompt, answer) in enumerate(zip(golden.prompts, answers, strict=True), 1):
            if difference := _difference(prompt, answer, golden.tolerance):
                raise GoldenError(f"golden prompt {number} of {len(answers)}: {difference}")

    def generate(
        self, version: str, prompts: Iterable[tuple[tuple[int, ...], int]], timeout: float
    ) -> list[list[tuple[int, TokenLogprobs]]]:
        """Continue each (prompt, number of tokens) greedily; GoldenError if one cannot be."""
        answers: dict[int, list[tuple[int, TokenLogprobs]]] = {}
        for prompt_token_ids, num_tokens in prompts:
            request_id = next(self._request_ids)
            answers[request_id] = []
            self._send(_request(request_id, version, prompt_token_ids, num_tokens, timeout))
        try:
            self._collect(answers, timeout)
        finally:
            # Whatever is left of them must not keep the weights in use.
            for request_id in answers:
                self._send(Abort(request_id=request_id))
        return list(answers.values())

    def _collect(self, answers: dict[int, list[tuple[int, TokenLogprobs]]], timeout: float) -> None:
        open_ids, deadline = set(answers), time.monotonic() + timeout
        while open_ids:
            event = self._next(deadline, timeout)
            if event.request_id not in open_ids:
                continue  # Of an earlier round that was given up.
            if event.error:
                raise GoldenError(f"a golden prompt ended with {event.error}: {event.message}")
            answers[event.request_id] += zip(event.token_ids, event.logprobs or (), strict=True)
            if event.finish_reason:
                open_ids.remove(event.request_id)

    def _next(self, deadline: float, timeout: float) -> TokenEvent:
        try:
            return self._events.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise GoldenError(f"golden prompts took more than {timeout:g} s") from None


def _request(
    request_id: int,
    version: str,
    prompt_token_ids: tuple[int, ...],
    num_tokens: int,
    timeout: float,
) -> Submit:
    now = time.monotonic()
    return Submit(
        request_id=request_id,
        prompt_token_ids=list(prompt_token_ids),
        params=SamplingParams(
            max_tokens=num_tokens,
            temperature=0.0,
            ignore_eos=True,
            # Where another token than the published one was generated, its likelihood is looked up.
            num_logprobs=MAX_LOGPROBS,
            # These make the whole prompt be computed: the weights are asked, not the prefix cache.
            num_prompt_logprobs=0,
        ),
        arrival=now,
        deadline=now + timeout,
        version=version,
    )


def _difference(
    prompt: GoldenPrompt, answer: list[tuple[int, TokenLogprobs]], tolerance: float
) -> str:
    """How an answer differs, empty if it does not. After a close call nothing is comparable."""
    for position, (expected, (token_id, logprobs)) in enumerate(
        zip(prompt.token_ids, answer, strict=True)
    ):
        if token_id == expected:
            continue
        gap = logprobs.logprob - dict(logprobs.top).get(expected, float("-inf"))
        if gap <= tolerance:
            return ""
        return (
            f"token {position + 1} is {token_id}, not {expected}, which is {gap:.3g} less likely "
            f"(natural logarithm; published tolerance {tolerance:g})"
        )
    return ""
