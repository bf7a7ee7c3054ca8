"""A call as spans: the call itself, each of its prompts, and their time in queue, prefill, decode.

Names and attributes are those of OpenTelemetry's conventions for HTTP, RPC and generative AI. No
attribute has a prompt, an answer, a stop string or a key. The spans inside of a prompt are made
when it ends, from the times that the engine reported, so nothing is paid per token.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry import propagate
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_trace_id,
    set_span_in_context,
)

from server.api.access.call import Call
from server.api.access.work import Work
from server.api.tracing.attributes import call_attributes, is_fault, span_name, work_attributes

_FLUSH_MS = 1000


class Tracing:
    """Makes the span of each call. One per API process."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("antipode")

    def start(self, call: Call, headers: Mapping[str, str]) -> CallTrace:
        """Begin a call's span, within the trace that its headers name."""
        context = propagate.extract(headers)
        span = self._tracer.start_span(span_name(call), context, SpanKind.SERVER)
        return CallTrace(self._tracer, span)

    def flush(self) -> None:
        """Send what has not been sent; it takes a second at the most. Not for the event loop."""
        self._provider.force_flush(_FLUSH_MS)


class CallTrace:
    """The span of one call, and those inside of it."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer, self._span = tracer, span
        self.trace_id = format_trace_id(span.get_span_context().trace_id)

    def record(self, operation: str, work: Work) -> None:
        """Add the spans of a prompt that has ended."""
        if not self._span.is_recording():
            return
        # From the monotonic clock to nanoseconds since the epoch.
        offset = time.time() - time.monotonic()
        span = self._part(f"{operation} {work.model}", self._span, work.submitted, offset)
        span.set_attributes(work_attributes(operation, work))
        if work.error:
            span.set_status(Status(StatusCode.ERROR))
        begun, first_token = work.begun or work.ended, work.first_token or work.ended
        self._part("queue", span, work.submitted, offset).end(_ns(begun + offset))
        if work.begun is not None:
            self._part("prefill", span, begun, offset).end(_ns(first_token + offset))
        if work.first_token is not None:
            self._part("decode", span, first_token, offset).end(_ns(work.ended + offset))
        span.end(_ns(work.ended + offset))

    def end(self, call: Call) -> None:
        self._span.set_attributes(call_attributes(call))
        # The route is known only now.
        self._span.update_name(span_name(call))
        if is_fault(call):
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def _part(self, name: str, parent: Span, start: float, offset: float) -> Span:
        context = set_span_in_context(parent)
        return self._tracer.start_span(
            name, context, SpanKind.INTERNAL, start_time=_ns(start + offset)
        )


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
