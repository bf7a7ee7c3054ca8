"""The audit log: one line for each change to what a server serves, and for each that was refused.

A line says what was done, to what, with which outcome, by which call and by whom. Knows neither
transports nor changes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from server.api.access.call import Call, current_call
from server.errors import ApiError

MAX_LOGGED_CHARS = 200
_log = logging.getLogger(__name__)


@contextmanager
def audited(action: str, **details: str) -> Iterator[None]:
    """Log what became of a change. A caller that leaves does not end it."""
    outcome = "done"
    try:
        yield
    except ApiError as error:
        outcome = error.kind.value
        raise
    except BaseException:
        outcome = "unknown: the caller left"
        raise
    finally:
        audit(action, outcome=outcome, **details)


@contextmanager
def refusals_audited(action: str, **details: str) -> Iterator[None]:
    """Log a change that ends before it gets to `audited`."""
    try:
        yield
    except ApiError as error:
        if not current_call().is_audited:
            audit(action, outcome=error.kind.value, **details)
        raise


def audit_call(call: Call) -> None:
    """Log an operator's call that failed before it got to a change, such as for what it sent."""
    if call.has_admin_token and call.has_failed and not call.is_audited:
        audit("call", outcome=str(call.status))


def audit(action: str, **details: str) -> None:
    call = current_call()
    call.is_audited = True
    # A client chose the path and what it names.
    given = {name: value[:MAX_LOGGED_CHARS] for name, value in details.items() if value}
    _log.info(
        "audit",
        extra={
            "action": action,
            **given,
            "call": f"{call.method} {call.path[:MAX_LOGGED_CHARS]}",
            "by": _name(call),
            "client": call.client,
            "request_id": call.request_id,
        },
    )


def _name(call: Call) -> str:
    return call.caller_name or ("the admin token" if call.has_admin_token else "nobody known")
