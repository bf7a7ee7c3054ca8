"""Reads the arguments of a call in a history: templates expect an object, clients send its JSON."""

from __future__ import annotations

from typing import Any

from server.api.requests.client_json import read_object, written_again
from server.errors import ApiError


def arguments_of(given: str | dict[str, Any] | None, where: str) -> dict[str, Any]:
    """The arguments as an object; nothing is no arguments. ApiError that names `where`."""
    if not given:
        return {}
    if isinstance(given, dict):
        written_again(given, f"{where}.arguments")
        return given
    try:
        return read_object(given, f"{where}.arguments")
    except ApiError as error:
        raise ApiError(error.kind, error.message, param=where) from None
