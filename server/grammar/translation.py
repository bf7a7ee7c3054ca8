"""Translates every kind of grammar that a request may have into llguidance's own.

Pure text. Knows neither vocabularies nor what the grammar is for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from server.grammar.grammar_error import GrammarError
from server.grammar.schemas import prepared, prepared_in_lark
from server.link.sampling import Grammar

# Without a bound, a model may write blanks for ever.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,20}"
_OWN_OPTIONS = '"x-guidance"'
_MAX_CHOICES = 10_000
_SPECIAL = re.compile(r"<[^<>\s]+>")


def translated(grammar: Grammar, special: Collection[str] = ()) -> str:
    """The grammar as llguidance reads it. `special` are the texts of special tokens.

    GrammarError for a text that is not of its kind.
    """
    if grammar.kind == "structural_tag":
        return LLMatcher.grammar_from_lark(prepared_in_lark(_structural_tag(grammar.text, special)))
    return _TRANSLATIONS[grammar.kind](grammar.text)


def _json_schema(text: str) -> str:
    text = prepared(text)
    try:
        # A schema of only true or false takes no options; one with options has its own.
        if text.strip() in ("true", "false") or _OWN_OPTIONS in text:
            return LLMatcher.grammar_from_json_schema(text)
        return LLMatcher.grammar_from_json_schema(
            text, defaults={"whitespace_pattern": _WHITESPACE}
        )
    except ValueError as error:
        raise GrammarError(str(error)) from None


def _choice(text: str) -> str:
    choices = _parsed(text)
    if not isinstance(choices, list) or not all(isinstance(one, str) for one in choices):
        raise GrammarError("it must be a list of strings")
    if not 0 < len(choices) <= _MAX_CHOICES:
        raise GrammarError(f"it must have 1 to {_MAX_CHOICES} entries, not {len(choices)}")
    return LLMatcher.grammar_from_lark(f"start: {any_of(choices)}")


def any_of(texts: Sequence[str]) -> str:
    """One of several texts, within a rule of Lark.

    As one regular expression: of a rule's alternatives, all would be followed one by one.
    """
    return f"/({'|'.join(map(_in_regex, texts))})/"


def _in_regex(text: str) -> str:
    return "".join(c if c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def _lark(text: str) -> str:
    try:
        return LLMatcher.grammar_from_lark(prepared_in_lark(any_to_lark(text)))
    except RecursionError:
        raise GrammarError("it is nested too deeply") from None
    except GrammarError:
        raise
    except Exception as error:
        # The converter from GBNF raises what it likes.
        raise GrammarError(f"it is neither Lark nor GBNF: {error}") from None


_TRANSLATIONS: Mapping[str, Callable[[str], str]] = {
    "json_schema": _json_schema,
    "json_object": lambda text: _json_schema('{"type": "object"}'),
    "regex": LLMatcher.grammar_from_regex,
    "choice": _choice,
    "lark": _lark,
}


def _structural_tag(text: str, special: Collection[str]) -> str:
    """Free text, in which each trigger begins one of its structures."""
    tag = _parsed(text)
    if not isinstance(tag, dict) or "structures" not in tag or "triggers" not in tag:
        raise GrammarError(
            "it must be an object with structures (begin, schema, end) and triggers; the form with"
            " format is not supported"
        )
    structures, triggers = tag["structures"], tag["triggers"]
    if not isinstance(structures, list) or not structures or not isinstance(triggers, list):
        raise GrammarError("structures and triggers must be lists, and structures not empty")
    names = [f"tag_{i}" for i in range(len(structures))]
    rules = [
        _structure(name, structure, triggers, special)
        for name, structure in zip(names, structures, strict=True)
    ]
    start = f"start: ({' | '.join(names)})* tag_end\ntag_end: TAG_TEXT\nTAG_TEXT: /(.|\\n)*/\n"
    return "%llguidance {}\n" + start + "".join(rules)


def _structure(name: str, structure: object, triggers: list[str], special: Collection[str]) -> str:
    match structure:
        case {"begin": str(begin), "schema": dict() | bool() as schema, "end": str(end)}:
            pass
        case _:
            raise GrammarError("each structure needs begin and end, texts, and schema, an object")
    trigger = next((t for t in triggers if isinstance(t, str) and t and begin.startswith(t)), None)
    if trigger is None:
        raise GrammarError(f"no trigger begins the structure {begin!r}")
    rest = begin[len(trigger) :]
    body = f"{_quoted_if_any(rest)} %json {json.dumps(schema)} {_quoted_if_any(end)}"
    if trigger in special and _SPECIAL.fullmatch(trigger):
        return f"{name}: TAG_TEXT {trigger} {body}\n"
    return f"{name}_trigger[lazy]: TAG_TEXT {_quoted(trigger)}\n{name}: {name}_trigger {body}\n"


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"it is no JSON: {error}") from None


def _quoted_if_any(text: str) -> str:
    return _quoted(text) if text else ""


def _quoted(text: str) -> str:
    """A string of Lark, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)
