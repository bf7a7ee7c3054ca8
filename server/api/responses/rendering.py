"""Words an answer as a response: whole, or as a stream of named events.

Knows what the request asks to be repeated. What a text says is the reader's business, and how items
grow is the item writer's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from server.api.chat.format import ChatPrompt
from server.api.http.json_bodies.json_response import ErrorDetail, finite
from server.api.requests.generation import Delta, TokenLogprob
from server.api.responses import event_bodies as events
from server.api.responses.event_bodies import ResponseEvent
from server.api.responses.item_writer import ItemWriter
from server.api.responses.request_body import ResponsesBody
from server.api.responses.response_bodies import (
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    OutputLogprob,
    OutputTokensDetails,
    ResponseBody,
    ResponseFault,
    ResponseStatus,
    ResponseUsage,
    TopOutputLogprob,
)
from server.api.streams.generation_group import GenerationGroup
from server.api.streams.reasoning_count import ReasoningCount
from server.api.tool_calls.events import AnswerEnded
from server.errors import ApiError, ErrorKind

# OpenAI's codes of a response that fails after it began; all other failures are the server's.
_FAULT_CODES = {ErrorKind.QUEUE_FULL: "rate_limit_exceeded"}


class ResponseRenderer:
    """One prompt and one choice."""

    def __init__(self, body: ResponsesBody, group: GenerationGroup, prompt: ChatPrompt) -> None:
        self._body = body
        self._group = group
        self._generation = group.generations[0]
        self._created_at = int(time.time())
        self._reader = prompt.reader()
        self._writer = ItemWriter(self._generation.request.request_id)
        self._reasoning = ReasoningCount(self._generation.token_bytes)
        self._status: ResponseStatus = "in_progress"
        self._has_begun = False

    def whole(self, answers: list[list[Delta]]) -> ResponseBody:
        for delta in answers[0]:
            for _ in self._written(delta):
                pass
        return self._response()

    def chunks(self, taken: list[tuple[int, Delta]]) -> Iterator[ResponseEvent]:
        yield from self._opening()
        for _, delta in taken:
            yield from self._written(delta)

    def closing(self) -> Iterable[ResponseEvent]:
        last = (
            events.ResponseIncomplete if self._status == "incomplete" else events.ResponseCompleted
        )
        return [last(sequence_number=self._writer.number(), response=self._response())]

    def failing(self, error: ApiError) -> Iterator[ResponseEvent]:
        yield from self._opening()
        self._status = "failed"
        fault = ResponseFault(_FAULT_CODES.get(error.kind, "server_error"), error.message)
        yield events.ResponseFailed(
            sequence_number=self._writer.number(), response=self._response(fault)
        )
        # Clients that read no failed response raise this one.
        kind = error.kind.spec.openai_type
        detail = ErrorDetail(
            message=error.message, type=kind, param=error.param, code=error.code or fault.code
        )
        yield events.ErrorEvent(
            sequence_number=self._writer.number(),
            code=detail.code,
            message=detail.message,
            param=detail.param,
            error=detail,
        )

    def _opening(self) -> Iterator[ResponseEvent]:
        if self._has_begun:
            return
        self._has_begun = True
        for kind in (events.ResponseCreated, events.ResponseInProgress):
            yield kind(sequence_number=self._writer.number(), response=self._response())

    def _written(self, delta: Delta) -> Iterator[ResponseEvent]:
        self._writer.take_logprobs(_logprobs(delta.logprobs))
        read = self._reader.feed(delta.text)
        last = []
        if delta.finish_reason:
            last = self._reader.finish(delta.finish_reason, delta.stop_reason)
        self._reasoning.add(delta.token_ids, [*read, *last])
        for event in read:
            yield from self._writer.write(event)
        status: ItemStatus = "incomplete" if delta.finish_reason == "length" else "completed"
        for event in last:
            yield from self._writer.write(event, status)
            if isinstance(event, AnswerEnded):
                self._status = status

    def _response(self, fault: ResponseFault | None = None) -> ResponseBody:
        body, generation = self._body, self._generation
        is_completed = self._status == "completed"
        is_cut = self._status == "incomplete"
        return ResponseBody(
            id=f"resp_{generation.request.request_id}",
            created_at=self._created_at,
            completed_at=int(time.time()) if is_completed else None,
            status=self._status,
            error=fault,
            incomplete_details=IncompleteDetails("max_output_tokens") if is_cut else None,
            model=generation.model,
            output=list(self._writer.items),
            usage=None if self._status == "in_progress" else self._usage(),
            model_version=generation.version,
            seed=generation.seed,
            **body.echoed(generation.request.sampling),
        )

    def _usage(self) -> ResponseUsage:
        usage = self._group.usage
        return ResponseUsage(
            input_tokens=usage.num_prompt_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=usage.num_cached_tokens),
            output_tokens=usage.num_generated_tokens,
            output_tokens_details=OutputTokensDetails(self._reasoning.num_tokens),
            total_tokens=usage.num_prompt_tokens + usage.num_generated_tokens,
        )


def _logprobs(entries: list[TokenLogprob] | None) -> list[OutputLogprob]:
    return [
        OutputLogprob(
            token=entry.token,
            bytes=list(entry.token_bytes),
            logprob=finite(entry.logprob),
            top_logprobs=[
                TopOutputLogprob(c.token, list(c.token_bytes), finite(c.logprob)) for c in entry.top
            ],
        )
        for entry in entries or ()
    ]
