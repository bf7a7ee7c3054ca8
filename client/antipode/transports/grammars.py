"""The option `grammar` as each transport sends it.

Knows neither what a grammar means nor whether it can be followed: the server says so.
"""

from __future__ import annotations

import json
from typing import Any

from antipode.types import Grammar

# By kind, the name of the HTTP API.
_HTTP_NAMES = {
    "json_schema": "json",
    "json_object": "json_object",
    "regex": "regex",
    "choice": "choice",
    "lark": "grammar",
    "structural_tag": "structural_tag",
}


def http_grammar(grammar: Grammar) -> dict[str, Any]:
    """The value of the HTTP field `structured_outputs`."""
    kind, value = _only(grammar)
    return {_HTTP_NAMES[kind]: value}


def grpc_grammar(grammar: Grammar) -> dict[str, Any]:
    """The fields of the message Grammar."""
    kind, value = _only(grammar)
    if kind == "choice":
        return {kind: {"texts": list(value)}}
    is_json = kind in ("json_schema", "structural_tag") and not isinstance(value, str)
    return {kind: json.dumps(value) if is_json else value}


def _only(grammar: Grammar) -> tuple[str, Any]:
    [(kind, value)] = grammar.items()
    return kind, value
