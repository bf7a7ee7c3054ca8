"""The formats of dates, times and durations, as clients can read every text of them.

What llguidance knows by these names includes the year 0, leap seconds and durations of any length,
which Python and others refuse. A schema's format becomes a pattern here. Pure text; knows neither
vocabularies nor where the schema comes from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# A year, 0001 to 9999, and those of them that have a 29 February.
_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_FOURTH = "(0[48]|[2468][048]|[13579][26])"
_LEAP_YEAR = f"([0-9]{{2}}{_FOURTH}|{_FOURTH}00)"
_DAY = (
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
    "|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    "|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"({_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_HOUR_AND_MINUTE = "([01][0-9]|2[0-3]):[0-5][0-9]"
# Microseconds are the most that Python keeps.
_TIME = rf"{_HOUR_AND_MINUTE}:[0-5][0-9](\.[0-9]{{1,6}})?(Z|[+\-]{_HOUR_AND_MINUTE})"
# All parts of so many digits together stay below the 999,999,999 days of Python's timedelta.
_NUMBER = "[0-9]{1,6}"
_DAYS = f"{_NUMBER}D"
_MONTHS = f"{_NUMBER}M({_DAYS})?"
_YEARS = f"{_NUMBER}Y({_MONTHS})?"
_MINUTES = f"{_NUMBER}M({_NUMBER}S)?"
_CLOCK = f"T({_NUMBER}H({_MINUTES})?|{_MINUTES}|{_NUMBER}S)"

_PATTERNS: Mapping[str, str] = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "duration": f"^P(({_YEARS}|{_MONTHS}|{_DAYS})({_CLOCK})?|{_CLOCK}|{_NUMBER}W)$",
}
# What these hold is a value; what the others hold are schemas, by name.
_VALUES = ("const", "enum", "default", "examples")
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def readable(schema: str) -> str:
    """The text of a JSON schema, with patterns in place of these formats.

    Any other text comes back as it is, also one that is no JSON.
    """
    if '"format"' not in schema:
        return schema
    try:
        found = json.loads(schema)
        changed = _schema(found)
    except (ValueError, RecursionError):
        return schema
    return schema if changed == found else json.dumps(changed)


def readable_in_lark(grammar: str) -> str:
    """A grammar of Lark, whose `%json` parts are schemas."""
    head, *parts = grammar.split("%json")
    return "%json".join([head, *map(_first_readable, parts)])


def _first_readable(text: str) -> str:
    """A text that begins with blanks and a schema."""
    start = len(text) - len(text.lstrip())
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return text
    return text[:start] + readable(text[start:end]) + text[end:]


def _schema(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    changed = {key: _inner(key, value) for key, value in schema.items()}
    pattern = _PATTERNS.get(name) if isinstance(name := changed.get("format"), str) else None
    if pattern is None:
        return changed
    del changed["format"]
    # The schema may have a pattern of its own, and others may refer to places in its allOf.
    also = changed.get("allOf", [])
    return changed | {"allOf": [*also, {"pattern": pattern}] if isinstance(also, list) else also}


def _inner(key: str, value: Any) -> Any:
    if key in _VALUES:
        return value
    if key in _BY_NAME and isinstance(value, dict):
        return {name: _schema(each) for name, each in value.items()}
    return [_schema(each) for each in value] if isinstance(value, list) else _schema(value)
