"""The trace that the current call belongs to, by W3C's header `traceparent`.

Log lines carry its id, whether the server records spans or not. Knows no transport and no spans.
"""

from __future__ import annotations

import re
from contextvars import ContextVar

HEADER = "traceparent"
# version - trace id - parent id - flags; later versions may have more.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")

# Empty outside of a call, and in a call of no trace.
current_trace_id: ContextVar[str] = ContextVar("current_trace_id", default="")


def trace_id_of(traceparent: str) -> str:
    """The trace's id, 32 hexadecimal digits; empty for a header that is none."""
    match = _TRACEPARENT.fullmatch(traceparent.strip())
    if match is None:
        return ""
    version, trace_id, parent_id, rest = match.groups()
    is_known = version != "ff" and not (version == "00" and rest)
    return trace_id if is_known and int(trace_id, 16) and int(parent_id, 16) else ""
