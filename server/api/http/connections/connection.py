"""One HTTP connection: h11 reads the requests, and uvicorn's httptools protocol writes the answers.

httptools loses the body of a request that offers an upgrade, reads the body then as the next
request, and takes heads that h11 refuses. uvicorn's own h11 protocol reads right but builds an
event for each write: 24 µs of CPU per streamed token instead of 18 (`docs/http.md`). So each
parser does what it is good at: `RequestReader` is asked once per request, and the write path is
uvicorn's. Another server (hypercorn, granian) would cost more per token or hide its sockets.

Knows nothing of the application, except that it speaks ASGI.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.api.http.connections.certificates import certificate_name
from server.api.http.connections.half_closed import Questions
from server.api.http.connections.limits import BodyPace, ConnectionLimits
from server.api.http.connections.open_connections import OpenConnections
from server.api.http.connections.request_reader import (
    Event,
    RefusedRequestError,
    RequestReader,
)
from server.api.http.connections.request_scope import names, scope_of
from server.api.http.connections.writing import PARTS, Exchange, JoinedWrites, refusal
from server.api.http.middleware.cors import refusal_headers
from server.errors import ErrorKind

# The answers for operators, which a full server still gives.
PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics"})
# So many pieces of one connection are handled in one turn of the event loop: about 5 ms.
MAX_EVENTS_PER_TURN = 256
# A refused client may still be sending: closing at once would reset the answer on its way.
LINGER_SECONDS = 2.0
# Who has just connected is about to send, and cannot tell a close from a server that fell.
FIRST_REQUEST_SECONDS = 1.0

_log = logging.getLogger(__name__)


class HttpConnection(HttpToolsProtocol):
    """uvicorn's connection with strict reading, deadlines, and responses that leave whole."""

    def __init__(
        self, *, limits: ConnectionLimits, connections: OpenConnections, **uvicorn: Any
    ) -> None:
        super().__init__(**uvicorn)
        self._limits = limits
        self._connections = connections
        self._reader = RequestReader(
            max_header_bytes=limits.max_header_bytes, max_body_bytes=limits.max_body_bytes
        )
        self._deadline: asyncio.TimerHandle | None = None
        self._body = BodyPace(0.0)
        self._has_ended = False
        self._has_had_request = self._is_refused = False
        self._certificate = ""
        self._is_half_closed = False
        self._questions: Questions | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        joined = JoinedWrites(transport, self.loop, self._close)
        super().connection_made(cast(asyncio.Transport, joined))
        self._certificate = certificate_name(transport)
        self._await_head()
        self._connections.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.leave(self)
        self._has_ended = True
        self._set_deadline(None)
        if self._questions is not None:
            self._questions.end()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self._has_ended or self._is_refused:
            return
        self._unset_keepalive_if_required()
        if self._reader.is_between_requests and not self._is_busy and self._deadline is None:
            self._await_head()
        self._reader.feed(data)
        self._read()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays: for answers to what the client sent before it ended.

        TLS ends with either side; HTTP/1.0 has no way to ask whether its client is still there, and
        neither has an answer that has begun, which a client ends that has read enough.
        """
        cycle = self.cycle
        if self._is_refused and not self._has_ended:  # The refusal is on its way.
            self._is_half_closed = True
            return not self.transport.is_closing()
        has_begun = cycle is not None and cycle.response_started and not cycle.response_complete
        if self._has_ended or has_begun:
            return False
        self._is_half_closed = True
        self._read()
        return not self.transport.is_closing() and (self._is_refused or not self._is_old)

    def retire(self) -> None:
        """As `shutdown`, but a connection that never had a request has a moment for its first."""
        if self._has_had_request or self._is_half_sent:
            self.shutdown()
        else:
            self._set_deadline(FIRST_REQUEST_SECONDS, self.shutdown)

    def shutdown(self) -> None:
        """End what has no request. A request that is half sent is refused, others are answered."""
        if not self._is_half_sent:
            super().shutdown()
        elif not (self._has_ended or self._is_refused):
            sentence = "the server is shutting down and the request is not complete"
            self._refuse(RefusedRequestError(sentence, 503, ErrorKind.UNAVAILABLE))

    def close_at_once(self) -> None:
        self._has_ended = True
        self.transport.abort()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._has_ended or self.transport.is_closing():
            return
        if self._is_half_closed and self._reader.is_between_requests:
            self.transport.close()
            return
        self._connections.wait(self)
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )
        self.flow.resume_reading()
        if self._reader.num_waiting_bytes:
            self.loop.call_soon(self._read_on)

    @property
    def _is_busy(self) -> bool:
        """Whether a request was read whole and its answer is not complete."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    @property
    def _is_old(self) -> bool:
        return self.cycle is not None and self.cycle.scope["http_version"] == "1.0"

    @property
    def _is_half_sent(self) -> bool:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            return cycle.more_body and not cycle.response_started
        return not self._reader.is_between_requests

    def _read_on(self) -> None:
        if self._has_ended or self._is_refused:
            return
        self._unset_keepalive_if_required()
        if self._deadline is None:
            self._await_head()
        self.flow.resume_reading()
        self._read()

    def _read(self) -> None:
        """Handle the pieces that are there, but one request at a time, and not too many at once."""
        try:
            for _ in range(MAX_EVENTS_PER_TURN):
                if self._is_busy:
                    self._ask_whether_half_closed()
                    if self._reader.num_waiting_bytes > HIGH_WATER_LIMIT:
                        self.flow.pause_reading()
                    return
                event = self._reader.next_event()
                if event is None or self._has_ended:
                    self._end_input()
                    return
                self._handle(event)
        except RefusedRequestError as error:
            self._refuse(error)
        else:
            self.flow.pause_reading()
            self.loop.call_soon(self._read_on)

    def _end_input(self) -> None:
        """Nothing more can be read now; of a client that sends no more, nothing ever."""
        if not self._is_half_closed or self._has_ended:
            return
        if self._is_half_sent:
            raise RefusedRequestError("the connection ended before the request was complete")
        self.transport.close()

    def _ask_whether_half_closed(self) -> None:
        cycle = self.cycle
        if self._is_half_closed and not self._is_old:
            if self._questions is not None:
                self._questions.end()
            self._questions = Questions(
                self.transport,
                self.loop,
                lambda: cycle is self.cycle and not cycle.response_started,
            )

    def _handle(self, event: Event) -> None:
        if isinstance(event, h11.Request):
            self._begin(event)
        elif isinstance(event, h11.Data):
            self._body.num_bytes += len(event.data)
            self.cycle.body += event.data
            if len(self.cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            self.cycle.message_event.set()
        else:
            self._set_deadline(None)
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def _begin(self, request: h11.Request) -> None:
        scope = scope_of(request, self, {**self.app_state, "certificate": self._certificate})
        if self._connections.is_full and scope["path"] not in PROBES:
            sentence = (
                f"all {self._connections.max_connections} connections of this server are in use"
            )
            raise RefusedRequestError(sentence, 503, ErrorKind.UNAVAILABLE)
        self._connections.begin(self)
        self._has_had_request = True
        self._await_body()
        is_current = request.http_version == b"1.1"
        self.cycle = Exchange(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=is_current and names(request, b"expect", b"100-continue"),
            keep_alive=is_current and not names(request, b"connection", b"close"),
            on_response=self.on_response_complete,
        )
        scope["extensions"] = {PARTS: cast(Any, self.cycle)}
        self._start_asgi_task(self.cycle, self.app)

    def _await_head(self) -> None:
        self._set_deadline(self._limits.head_timeout, self._on_late_head)

    def _await_body(self) -> None:
        self._body = BodyPace(self.loop.time())
        self._set_deadline(self._limits.body_timeout, self._on_late_body)

    def _set_deadline(self, seconds: float | None, act: Callable[[], None] | None = None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None
        if seconds is not None and act is not None:
            self._deadline = self.loop.call_later(seconds, act)

    def _on_late_head(self) -> None:
        if self._reader.is_between_requests:
            _log.debug("closed a connection that sent no request in time")
            self._has_ended = True
            self.transport.close()
        else:
            self._refuse_late("head", self._limits.head_timeout, "--head-timeout-seconds")

    def _on_late_body(self) -> None:
        """Give the body up, unless it comes at the least rate."""
        left = self._body.ends_at(self._limits.body_timeout) - self.loop.time()
        if left > 0:
            self._set_deadline(left, self._on_late_body)
        else:
            self._refuse_late("body", self._limits.body_timeout, "--body-timeout-seconds")

    def _refuse_late(self, part: str, seconds: float, setting: str) -> None:
        sentence = f"the request's {part} did not come within {seconds:g} seconds ({setting})"
        self._refuse(RefusedRequestError(sentence, 408))

    def _refuse(self, error: RefusedRequestError) -> None:
        """Answer, or have the application that reads the body do so, and end the connection."""
        _log.info("refused a request: %s", error.message)
        self._is_refused = True
        self._set_deadline(None)
        cycle = cast(Exchange | None, self.cycle)
        if cycle is None or cycle.response_complete:
            cors = refusal_headers(self._limits.cors_origins, self._reader.origin)
            self.transport.write(refusal(error, [*self.server_state.default_headers, *cors]))
            self.transport.close()
        elif cycle.response_started:
            cycle.disconnected = True
            cycle.message_event.set()
            self.transport.close()
        else:
            cycle.refuse(error)

    def _close(self, transport: asyncio.Transport) -> None:
        """Close the transport, but let a client that still sends read the answer first."""
        self._set_deadline(None)
        is_read_whole = self.cycle is None or not self.cycle.more_body
        has_all = is_read_whole and self._reader.is_between_requests
        if self._has_ended or self._is_half_closed or has_all:
            transport.close()
            return
        self._has_ended = True
        self.flow.resume_reading()
        if transport.can_write_eof():
            transport.write_eof()
        self._set_deadline(LINGER_SECONDS, transport.close)
