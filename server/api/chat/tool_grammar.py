"""The form that an answer with calls must have, as a grammar of llguidance's Lark.

A forced choice allows only calls, after reasoning if the model reasons. A free choice with strict
tools allows any text, and constrains what follows the beginning of a call. Calls have the form of
the model's family, which its reader reads back. Knows neither a protocol nor the engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.api.chat.gemma4_grammar import Gemma4Rules
from server.api.chat.reasoning import ReasoningTags
from server.api.chat.tools import Tool, ToolChoice
from server.api.tool_calls.families import Family
from server.api.tool_calls.gemma4_object import QUOTE
from server.errors import ApiError, ErrorKind
from server.link.sampling import Grammar

_ROOT_KEYS = ("x-guidance", "$schema", "$defs", "definitions")
_TEXT = r"/(.|\n)*/"
# What `_rule` and `_whole_rule` write. Names have no character that JSON escapes.
_RULE_OF_TOOL = re.compile(
    r'f\d+: (?:"\{\\"name\\": \\"([\w-]+)\\"|%json .*"name": \{"const": "([\w-]+)"\}'
    r'|"call:([\w-]+)")'
)
# No text is forced on the model: it chooses how to cut it into tokens.
HEAD = '%llguidance {"no_forcing": true}'
# The separators of the JSON on which models were trained; without them a model may write blanks on.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """What a grammar must know of the model.

    `special` has the ids of the markers and tags that are special tokens, because a special token
    has no text in a grammar. `is_reasoning`: the answer begins inside reasoning.
    """

    family: Family
    special: Mapping[str, int] = field(default_factory=dict)
    tags: ReasoningTags | None = None
    is_reasoning: bool = False

    def word(self, text: str) -> str:
        """A marker as a grammar names it."""
        return f"<[{self.special[text]}]>" if text in self.special else quoted(text)

    def until(self, text: str) -> tuple[str, str]:
        """Options and body of a rule for any text up to a marker, the marker included."""
        if text in self.special:
            return "", f"{_TEXT} {self.word(text)}"
        return "[lazy]", f"{_TEXT[:-1]}{_in_regex(text)}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calls:
    """Around the calls of a family: `opening` of all, `before`, `after` and `between` each.

    `own`: arguments are no JSON, and have rules of their own.
    """

    opening: str = ""
    before: str = ""
    after: str = ""
    between: str = ""
    closing: str = ""
    arguments_key: str = "arguments"
    own: bool = False


_CALLS: Mapping[Family, _Calls] = {
    "hermes": _Calls(opening="<tool_call>", before="\n", after="\n</tool_call>", between="\n"),
    "llama3_json": _Calls(between="; ", arguments_key="parameters"),
    "mistral": _Calls(opening="[TOOL_CALLS]", before="[", between=", ", closing="]"),
    "gemma3": _Calls(opening="```tool_call", before="\n[", between=", ", closing="]\n```"),
    "gemma4": _Calls(opening="<|tool_call>", after="<tool_call|>", own=True),
}


def can_enforce(family: Family) -> bool:
    """Whether a grammar can be made of the family's calls."""
    return family in _CALLS


def tool_at(grammar: Grammar, line: int) -> str:
    """The name of the tool that a line of such a grammar is about; empty for any other line."""
    lines = grammar.text.split("\n") if grammar.kind == "lark" and line else []
    found = _RULE_OF_TOOL.match(lines[line - 1]) if line <= len(lines) and lines else None
    return next(filter(None, found.groups())) if found else ""


def beginning_of_calls(family: Family) -> str:
    """What only a call begins with, in an answer that a grammar of strict tools holds."""
    calls = _CALLS.get(family)
    return "" if calls is None else calls.opening or "{"


def tool_grammar(
    tools: Sequence[Tool],
    choice: ToolChoice,
    *,
    parallel: bool,
    form: AnswerForm,
    answer: str = "",
) -> Grammar | None:
    """The grammar of an answer; None where any text may be. ApiError where none can be made.

    `answer` is the body of a rule that an answer without calls must follow; empty for any text.
    """
    is_strict = any(tool.strict for tool in tools)
    if choice.mode == "none" or not (choice.is_forced or is_strict or answer):
        return None
    calls = _CALLS.get(form.family)
    if calls is None:
        raise ApiError(
            ErrorKind.INVALID_REQUEST,
            "neither strict schemas nor a response_format next to tools can be enforced with the"
            f" calls that this model writes, which have the form {form.family}; leave both out, or"
            " set tool_choice to required",
            param="tools",
        )
    may_call = [tool for tool in tools if choice.mode != "named" or tool.name == choice.name]
    # Without a marker, an answer may begin as a call does: then both must be JSON from the start.
    if calls.own:
        rules = [line for i, tool in enumerate(may_call) for line in _own(i, tool, form, choice)]
    else:
        rule = _whole_rule if answer and not calls.opening else _rule
        rules = [f"f{i}: {rule(tool, calls, choice)}" for i, tool in enumerate(may_call)]
    any_call = " | ".join(f"f{i}" for i in range(len(may_call)))
    several = parallel and choice.mode != "named"
    if choice.is_forced or answer:
        start = _parts(calls, form, "" if choice.is_forced else answer, several=several)
    else:
        start = _free(calls, form, several=several)
    return Grammar("lark", "\n".join([HEAD, *start, f"one: {any_call}", *rules]))


def _parts(calls: _Calls, form: AnswerForm, answer: str, *, several: bool) -> list[str]:
    """Calls, or else an answer where one is allowed."""
    think, rules = thinking(form)
    rules += _calls_rules(calls, form, several=several)
    if not answer:
        return [f"start: {think} calls", *rules]
    return [f"start: {think} (calls | answer)", f"answer: {answer}", *rules]


def _free(calls: _Calls, form: AnswerForm, *, several: bool) -> list[str]:
    """Any text. Calls begin with their marker or, of Llama 3, with a brace at the start."""
    if not calls.opening:
        think, rules = thinking(form)
        rules += _calls_rules(calls, form, several=several)
        return [f"start: {think} (calls | OTHER)?", r"OTHER: /[^{\s](.|\n)*/", *rules]
    options, until = form.until(calls.opening)
    body = _body(calls, form, several=False)
    return [
        f"start: called{'*' if several else '?'} tail",
        f"tail: {_TEXT}",
        f"called: opened {body}",
        f"opened{options}: {until}",
    ]


def _calls_rules(calls: _Calls, form: AnswerForm, *, several: bool) -> list[str]:
    opening = form.word(calls.opening) if calls.opening else ""
    if calls.closing or not calls.opening:
        return [f"calls: {opening} {_body(calls, form, several=several)}"]
    between = quoted(calls.between) if calls.between else ""
    more = f"({between} call)*" if several else ""
    return [f"calls: call {more}", f"call: {opening} {_body(calls, form, several=False)}"]


def _body(calls: _Calls, form: AnswerForm, *, several: bool) -> str:
    more = f"({quoted(calls.between)} one)*" if several else ""
    words = [quoted(calls.before), "one", more, form.word(calls.after), quoted(calls.closing)]
    return " ".join(word for word in words if word not in ("", '""'))


def _rule(tool: Tool, calls: _Calls, choice: ToolChoice) -> str:
    """One tool's call. Its schema stays whole, so that references in it find their target."""
    head = f'{{"name": {json.dumps(tool.name)}, "{calls.arguments_key}": '
    return f'{quoted(head)} %json {json.dumps(_schema(tool, choice))} "}}"'


def _own(number: int, tool: Tool, form: AnswerForm, choice: ToolChoice) -> list[str]:
    """One tool's call in Gemma 4's form: its own rule, and those of its arguments."""
    rules = Gemma4Rules(
        tool=tool.name,
        root=_schema(tool, choice),
        prefix=f"g{number}",
        quote=form.word(QUOTE),
        is_token=QUOTE in form.special,
        strict=tool.strict,
    )
    return [f"f{number}: {quoted('call:' + tool.name)} {rules.arguments()}", *rules.lines]


def _whole_rule(tool: Tool, calls: _Calls, choice: ToolChoice) -> str:
    """One tool's call as one schema. Definitions move to its root, where references look."""
    arguments = _schema(tool, choice)
    options = {name: arguments.pop(name) for name in _ROOT_KEYS if name in arguments}
    properties = {"name": {"const": tool.name}, calls.arguments_key: arguments}
    schema = options | {"type": "object", "properties": properties, "required": list(properties)}
    return f"%json {json.dumps(schema | {'additionalProperties': False})}"


def _schema(tool: Tool, choice: ToolChoice) -> dict[str, Any]:
    is_enforced = tool.strict or choice.is_forced
    schema = dict(tool.schema) if is_enforced else {"type": "object"}
    # Of a schema that no client declared strict, what a grammar cannot say is left out.
    style = JSON_STYLE if tool.strict else JSON_STYLE | {"lenient": True}
    return {"x-guidance": style, "type": "object"} | schema


def thinking(form: AnswerForm) -> tuple[str, list[str]]:
    """What may come before a forced call, and its rules."""
    if form.tags is None:
        return "", []
    options, until = form.until(form.tags.end)
    opened = "" if form.is_reasoning else f"{form.word(form.tags.start)} "
    rules = [f"think: {opened}thought /\\s{{0,4}}/", f"thought{options}: {until}"]
    return ("think" if form.is_reasoning else "think?"), rules


def quoted(text: str) -> str:
    """A string of Lark, whose escapes are those of JSON."""
    return json.dumps(text)


def _in_regex(text: str) -> str:
    return "".join(c if c.isalnum() else f"\\x{ord(c):02x}" for c in text)
