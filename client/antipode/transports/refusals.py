"""What a refusal over HTTP says: the server's sentence, or the words of a gateway before it.

Gateways answer in plain text or in JSON of their own; their pages for people say nothing that a
program can use. Knows neither statuses nor errors.
"""

from __future__ import annotations

import json
from typing import Any

from antipode.limits import quoted

# Where JSON of servers and gateways has its sentence.
_NAMES = ("error", "message", "detail")
_MAX_CHARACTERS = 300


def sentence(status: int, content: bytes, *, is_compressed: bool) -> str:
    """One sentence, whatever the body holds. `content` is as it came: nothing is inflated."""
    text = "" if is_compressed else _text(content)
    try:
        said = _said(json.loads(text))
    except (ValueError, RecursionError):
        words = "" if text.startswith("<") else quoted(" ".join(text.split())[:_MAX_CHARACTERS])
        return f"HTTP status {status}: {words}" if words else f"HTTP status {status}"
    return quoted(said) if said else f"HTTP status {status}"


def _text(content: bytes) -> str:
    """Text without control characters; empty for anything else."""
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        return ""
    return text if all(char.isprintable() or char.isspace() for char in text) else ""


def _said(body: Any) -> str:
    """`{"error": {"message": TEXT}}`, and its shorter forms."""
    while isinstance(body, dict):
        body = next((body[name] for name in _NAMES if body.get(name)), None)
    return body if isinstance(body, str) else ""
