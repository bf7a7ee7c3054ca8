"""The record of one call, from its first header to its end.

A transport makes it and every layer below finds it by `current_call`, whatever the protocol. It
never holds a prompt, an answer or a key.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from server.api.access.api_keys import Caller
from server.api.access.objectives import Objectives
from server.api.access.work import Operation, Work


class CallSpan(Protocol):
    """The call in its trace, where the server records spans."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""

    def record(self, operation: Operation, work: Work) -> None:
        """A prompt of the call has ended."""

    def end(self, call: Call) -> None:
        """The call is over."""


@dataclass(slots=True, kw_only=True)
class Call:
    """`method` is HTTP's or "gRPC". `route` is the pattern that the path matches, empty if there is
    none; `scheme` is of HTTP's URL. `caller` is None without keys; `certificate` names the client's
    certificate, empty without one. `trusts_headers`: whether fairness ids and priorities count.
    `is_audited`: whether the audit log has a line of it.
    `operation` is what its prompts are for. `status` is the HTTP status or the name of gRPC's code.
    `started` is of the monotonic clock.
    """

    method: str = ""
    path: str = ""
    route: str = ""
    scheme: str = ""
    client: str = ""
    request_id: str = ""
    trace_id: str = ""
    certificate: str = ""
    has_admin_token: bool = False
    is_audited: bool = False
    caller: Caller | None = None
    objectives: Objectives = field(default_factory=Objectives)
    trusts_headers: bool = True
    operation: Operation = "text_completion"
    status: int | str = ""
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    span: CallSpan | None = None

    @property
    def caller_name(self) -> str:
        """The name of the key, else of the certificate; empty for a call that has neither."""
        return self.caller.name if self.caller else self.certificate

    @property
    def has_failed(self) -> bool:
        return self.status >= 400 if isinstance(self.status, int) else self.status != "OK"

    def count(self, *, num_prompt_tokens: int = 0, num_generated_tokens: int = 0) -> None:
        """Add what a part of the call has used."""
        self.num_prompt_tokens += num_prompt_tokens
        self.num_generated_tokens += num_generated_tokens


_current: ContextVar[Call | None] = ContextVar("current_call", default=None)


def current_call() -> Call:
    """The call that this task belongs to; an empty one outside of calls."""
    return _current.get() or Call()


def set_current_call(call: Call) -> None:
    """What follows in this task, and in tasks that it starts, belongs to `call`."""
    _current.set(call)
