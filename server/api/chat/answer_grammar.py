"""What a client's own grammar becomes next to reasoning and calls: a part of an answer.

Otherwise the first token would have to fit the client's grammar, and the model could neither end
its reasoning nor call a tool. Knows neither a protocol nor the engine.
"""

from __future__ import annotations

import json
from typing import Any

from server.api.chat.tool_grammar import HEAD, JSON_STYLE, AnswerForm, thinking
from server.grammar.translation import any_of
from server.link.sampling import Grammar


def after_reasoning(grammar: Grammar, form: AnswerForm) -> Grammar | None:
    """The grammar behind reasoning; None for a grammar that cannot be put behind a text."""
    body = answer_body(grammar)
    if body is None:
        return None
    think, rules = thinking(form)
    return Grammar("lark", "\n".join([HEAD, f"start: {think} answer", *rules, f"answer: {body}"]))


def answer_body(grammar: Grammar) -> str | None:
    """The grammar as the body of a rule of Lark; None for one that cannot be a part of another."""
    match grammar.kind:
        case "json_object":
            return _json({"type": "object"})
        case "json_schema":
            schema = _parsed(grammar.text)
            return _json(schema) if isinstance(schema, dict) else None
        case "choice":
            choices = _parsed(grammar.text)
            is_list = isinstance(choices, list) and all(isinstance(one, str) for one in choices)
            return any_of(choices) if is_list and choices else None
        case _:
            return None


def _json(schema: dict[str, Any]) -> str:
    return f"%json {json.dumps({'x-guidance': JSON_STYLE} | schema)}"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
