"""Dates, times and durations that a schema asks for are those that Python can read."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta

import jsonschema
import pytest
from pydantic import TypeAdapter

from server.grammar.schemas import prepared, prepared_in_lark
from server.link.sampling import Grammar
from tests.grammar.vocabularies import EOS, allowed, generate, ids, make_compiler, text_of

READ_AS = {"date": date, "time": time, "date-time": datetime, "duration": timedelta}
CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER


def compiled(schema: dict):
    return make_compiler().compile(Grammar("json_schema", json.dumps(schema)))


def is_whole(matcher, value: str) -> bool:
    matcher.take(ids(json.dumps(value)))
    return not matcher.error and EOS in allowed(matcher)


@pytest.mark.parametrize("name", READ_AS)
def test_pydantic_and_jsonschema_read_every_text(name):
    matcher = compiled({"type": "string", "format": name})
    for seed in range(60):
        text = text_of(generate(matcher.copy(), seed))
        TypeAdapter(READ_AS[name]).validate_json(text)
        CHECKER.check(json.loads(text), name)


FITTING = {
    "date": ["0001-01-01", "9999-12-31", "2024-02-29", "2000-02-29", "2023-04-30"],
    "time": ["00:00:00Z", "23:59:59.123456-23:59", "12:30:00.5+05:30"],
    "date-time": ["2026-11-30T12:00:00Z", "2026-11-30T12:00:00.123+01:00"],
    "duration": ["P1Y2M3DT4H5M6S", "PT36H", "P2W", "P1D", "P6M"],
}
OTHERS = {
    "date": ["0000-01-01", "2023-02-29", "1900-02-29", "2023-04-31", "2023-00-10", "2023-13-01"],
    "time": ["23:59:60Z", "24:00:00Z", "12:00:00", "12:00:00+24:00", "12:00:00z"],
    "date-time": ["2016-12-31T23:59:60Z", "0000-01-01T00:00:00Z", "2026-11-30t12:00:00Z"],
    "duration": ["P", "PT", "P1000000Y", "P1Y1W"],
}
CASES = [
    (name, text, fits)
    for texts, fits in ((FITTING, True), (OTHERS, False))
    for name, values in texts.items()
    for text in values
]


@pytest.mark.parametrize(("name", "text", "fits"), CASES)
def test_a_text_fits_if_there_is_such_a_day_or_time(name, text, fits):
    assert is_whole(compiled({"type": "string", "format": name}), text) == fits


def test_a_pattern_and_an_all_of_beside_a_format_hold_too():
    in_may = {"type": "string", "format": "date", "pattern": "^....-05"}
    for schema in (in_may, {**in_may, "allOf": [{"pattern": "^2"}]}):
        assert is_whole(compiled(schema), "2026-05-31")
        assert not is_whole(compiled(schema), "2026-06-30")
    assert not is_whole(compiled({**in_may, "allOf": [{"pattern": "^2"}]}), "1926-05-31")


def test_a_format_counts_wherever_a_schema_is():
    stamp = {"type": "string", "format": "time"}
    places = {
        "property": {"properties": {"format": stamp}},
        "definition": {"$defs": {"enum": stamp}, "$ref": "#/$defs/enum"},
        "item": {"prefixItems": [stamp], "items": stamp},
        "option": {"anyOf": [stamp, {"type": "null"}]},
    }
    for schema in places.values():
        assert '"format": "time"' not in prepared(json.dumps(schema))


@pytest.mark.parametrize(
    "text",
    [
        '{"const": {"format": "date"}}',
        '{"enum":[{"format":"date"}]}',
        '{"properties": {"format": {"type": "string"}}}',
        '{"type": "string", "format": "uuid"}',
        '{"format": ["date"]}',
        '{"format": "date"',
    ],
)
def test_what_is_no_such_format_stays_to_the_letter(text):
    assert prepared(text) == text


def test_schemas_within_other_grammars_are_read_alike():
    lark = 'start: "%json " a\na: %json{"type": "string", "format": "time"}\n'
    assert '"format"' not in prepared_in_lark(lark)
    tag = {
        "structures": [
            {"begin": "<t>", "schema": {"type": "string", "format": "time"}, "end": "</t>"}
        ],
        "triggers": ["<t>"],
    }
    for grammar, before in (
        (Grammar("lark", lark), "%json "),
        (Grammar("structural_tag", json.dumps(tag)), "<t>"),
    ):
        matcher = make_compiler().compile(grammar)
        matcher.take(ids(before + '"23:59:6'))
        assert matcher.error
