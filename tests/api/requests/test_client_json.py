"""JSON inside of JSON is an object that can be written again, or refused with the reason."""

from __future__ import annotations

import pytest

from server.api.requests.client_json import read_object
from server.errors import ApiError


def test_an_object_is_read():
    assert read_object('{"a": [1.5, null, {"b": ""}]}', "x") == {"a": [1.5, None, {"b": ""}]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{oops", "give the JSON of an object"),
        ("[1]", "give the JSON of an object"),
        ('{"a": NaN}', "(NaN is no JSON)"),
        ('{"a": {"b": -Infinity}}', "(-Infinity is no JSON)"),
        ('{"a": 1e999}', "(1e999 is too large)"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "(it has the key 'c' twice)"),
        ('{"a":' * 50_000, "give the JSON of an object"),
    ],
)
def test_what_is_no_object_or_loses_a_value_is_refused(text, words):
    with pytest.raises(ApiError) as refused:
        read_object(text, "x.arguments")
    assert refused.value.message.startswith("x.arguments is '")
    assert words in refused.value.message
    assert refused.value.param == "x.arguments"
