"""Reads the arguments of a call in a history: templates expect an object, clients send its JSON."""

from __future__ import annotations

import json
from typing import Any

from server.errors import ApiError, ErrorKind

_MAX_SHOWN_CHARS = 80


def arguments_of(given: str | dict[str, Any] | None, where: str) -> dict[str, Any]:
    """The arguments as an object; nothing is no arguments. ApiError that names `where`."""
    if not given:
        return {}
    if isinstance(given, dict):
        return given
    try:
        arguments = json.loads(given)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        found = given[:_MAX_SHOWN_CHARS]
        message = f"{where}.arguments is {found!r}; give the JSON of an object"
        raise ApiError(ErrorKind.INVALID_REQUEST, message, param=where)
    return arguments
