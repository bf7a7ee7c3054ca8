"""The audit log: one line for each change to what a server serves, and for each refused admin.

A line says what was done, to what, with which outcome and by whom. Knows neither transports nor
changes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from server.api.access.call import Call, current_call
from server.errors import ApiError

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


def audit(action: str, **details: str) -> None:
    call = current_call()
    given = {name: value for name, value in details.items() if value}
    _log.info(
        "audit",
        extra={
            "action": action,
            **given,
            "by": _name(call),
            "client": call.client,
            "request_id": call.request_id,
        },
    )


def _name(call: Call) -> str:
    return call.caller_name or ("the admin token" if call.has_admin_token else "nobody known")
