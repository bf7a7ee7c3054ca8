"""Errors name fields as the protocol spells them."""

from __future__ import annotations

import pytest

from server.api.requests.field_names import fields_named
from server.api.requests.validation import invalid
from server.errors import ApiError

NAMES = {"max_tokens": "max_output_tokens", "stop": "stop_sequences", "messages": "input"}


@pytest.mark.parametrize(
    ("message", "param", "said", "named"),
    [
        ("max_tokens must be 1", "max_tokens", "max_output_tokens must be 1", "max_output_tokens"),
        ("with max_tokens 9", "prompt", "with max_output_tokens 9", "prompt"),
        ("stop must be short", "stop", "stop_sequences must be short", "stop_sequences"),
        ("a stop string is long", "stop", "a stop string is long", "stop_sequences"),
        ("messages[1] has no text", "messages[1]", "input[1] has no text", "input[1]"),
        ("the messages are old", None, "the messages are old", None),
    ],
)
def test_a_name_of_the_service_becomes_the_protocols(message, param, said, named):
    with pytest.raises(ApiError) as caught, fields_named(NAMES):
        raise invalid(message, param, "code")
    assert (caught.value.message, caught.value.param) == (said, named)
    assert caught.value.code == "code"


def test_an_error_without_such_a_name_is_the_same_error():
    error = invalid("temperature must be 1", "temperature")
    with pytest.raises(ApiError) as caught, fields_named(NAMES):
        raise error
    assert caught.value is error
