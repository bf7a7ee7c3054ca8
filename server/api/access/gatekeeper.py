"""Lets calls in and records them: keys, budgets, the access log, and what each key has used.

Both transports use it for every service, so no protocol can forget it. Knows no transport.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from server.api.access.api_keys import ApiKeys
from server.api.access.audit import audit_call
from server.api.access.budgets import Budgets
from server.api.access.call import Call, CallSpan, set_current_call
from server.api.access.objectives import check_timeout, read_objectives
from server.errors import ApiError, ErrorKind
from server.files.watched_files import WatchedFiles
from server.trace_context import HEADER as TRACE_HEADER
from server.trace_context import current_trace_id, trace_id_of

MAX_LOGGED_PATH = 200
_SCHEME = "bearer "
_log = logging.getLogger(__name__)


class Counter(Protocol):
    """What counts calls for the metrics."""

    def refuse(self, outcome: str) -> None:
        """A call was refused before it became a request of the engine."""

    def count_key_use(self, key: str, *, num_prompt_tokens: int, num_generated_tokens: int) -> None:
        """A call of a key has ended."""


class Gatekeeper:
    """One per API process. Without `keys` it lets in whoever comes, and without `counter` it counts
    nothing. `budgets` are what the other API processes count in too. `priorities` has the priority
    of each named objective.

    `start_span` makes a call's span of its headers; None records no spans.
    """

    def __init__(
        self,
        counter: Counter | None = None,
        *,
        keys: WatchedFiles[ApiKeys] | None = None,
        budgets: Budgets | None = None,
        needs_certificate: bool = False,
        are_metrics_open: bool = True,
        logs_calls: bool = False,
        trusts_headers: bool = True,
        priorities: Mapping[str, int] | None = None,
        start_span: Callable[[Call, Mapping[str, str]], CallSpan] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counter = counter
        self._keys = keys
        self._budgets = budgets or Budgets()
        self._needs_certificate = needs_certificate
        self.are_metrics_open = are_metrics_open
        self._logs_calls = logs_calls
        self._trusts_headers = trusts_headers
        self._priorities = priorities or {}
        self._start_span = start_span
        self._clock = clock

    def begin(self, call: Call, headers: Mapping[str, str]) -> None:
        """Read what the headers say, and make `call` the current one. Names are in lower case."""
        call.trusts_headers = self._trusts_headers
        call.objectives = read_objectives(
            headers, self._priorities, is_trusted=self._trusts_headers
        )
        call.trace_id = trace_id_of(headers.get(TRACE_HEADER, ""))
        if self._start_span is not None:
            call.span = self._start_span(call, headers)
            call.trace_id = call.span.trace_id or call.trace_id
        set_current_call(call)
        current_trace_id.set(call.trace_id)

    def authorize(self, call: Call, headers: Mapping[str, str]) -> None:
        """ApiError unless the call has what this server asks for, and something left to use.

        Also for a time limit that cannot be understood.
        """
        try:
            if self._needs_certificate and not call.certificate:
                raise ApiError(
                    ErrorKind.UNAUTHENTICATED,
                    "connect with a client certificate of the authority that this server trusts",
                )
            if self._keys is not None:
                self._check_key(call, headers, self._keys.current())
            check_timeout(headers)
        except ApiError as error:
            if self._counter is not None:
                self._counter.refuse(error.kind.value)
            raise

    def end(self, call: Call) -> None:
        """The call is over: log it, and count what its key has used. The call must be current."""
        if call.caller is not None:
            num_tokens = call.num_prompt_tokens + call.num_generated_tokens
            self._budgets.spend_tokens(call.caller, num_tokens, self._clock())
            if self._counter is not None:
                self._counter.count_key_use(
                    call.caller.name,
                    num_prompt_tokens=call.num_prompt_tokens,
                    num_generated_tokens=call.num_generated_tokens,
                )
        audit_call(call)
        if self._logs_calls:
            log_call(call)
        if call.span is not None:
            call.span.end(call)

    def _check_key(self, call: Call, headers: Mapping[str, str], keys: ApiKeys) -> None:
        found = (keys.find(key) for key in _given_keys(headers))
        caller = next((each for each in found if each is not None), None)
        if caller is None:
            raise ApiError(
                ErrorKind.UNAUTHENTICATED,
                "give a key of this server: Authorization: Bearer KEY, or X-Api-Key: KEY",
                code="invalid_api_key",
            )
        call.caller = caller
        seconds, limit = self._budgets.admit(caller, self._clock())
        if seconds > 0:
            raise ApiError(
                ErrorKind.OVER_BUDGET,
                f"the key {caller.name} has used up its {limit}; try again in"
                f" {math.ceil(seconds)} seconds",
                retry_after=math.ceil(seconds),
            )


def log_call(call: Call) -> None:
    """The access log: one line for each call, without what it said."""
    _log.info(
        "call",
        extra={
            "method": call.method,
            "path": call.path[:MAX_LOGGED_PATH],
            "status": call.status,
            "seconds": round(time.monotonic() - call.started, 4),
            "prompt_tokens": call.num_prompt_tokens,
            "generated_tokens": call.num_generated_tokens,
            "key": call.caller_name or "none",
            "client": call.client,
            "request_id": call.request_id,
        },
    )


def _given_keys(headers: Mapping[str, str]) -> tuple[str, str]:
    """OpenAI's clients send a bearer token; Anthropic's have a header of their own.

    Either may be the key: a call that needs the admin token too has that one as its bearer token.
    """
    header = headers.get("authorization", "")
    token = header[len(_SCHEME) :] if header.lower().startswith(_SCHEME) else ""
    return token.strip(), headers.get("x-api-key", "").strip()
