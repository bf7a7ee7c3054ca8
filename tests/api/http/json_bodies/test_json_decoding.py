"""JSON that is decoded in pieces is what it is decoded whole, and too much of it is refused."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.http.json_bodies import json_decoding
from server.api.http.json_bodies.json_decoding import MAX_NUMBERS, MAX_VALUES, Integers, decode
from server.errors import ApiError

_PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
_TEXTS = st.text('a"\\[]{},:0 ', max_size=8)
_VALUES = st.recursive(
    _PLAIN | _TEXTS | st.lists(st.integers(0, 99)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
)


@pytest.fixture
def in_pieces(monkeypatch):
    """Whatever is decoded is decoded in pieces, of a few bytes each."""
    monkeypatch.setattr(json_decoding, "_PIECE_BYTES", 3)

    def decode_so(body: bytes) -> object:
        parts = json_decoding._split_at_quotes(body)
        return json_decoding._decode_in_pieces(body, parts)

    return decode_so


@settings(max_examples=300, deadline=None)
@given(value=_VALUES, spaces=st.sampled_from([None, 1]))
def test_a_value_in_pieces_is_the_value(value, spaces):
    body = json.dumps(value, indent=spaces).encode()
    parts = json_decoding._split_at_quotes(body)
    assert json_decoding._decode_in_pieces(body, parts) == msgspec.json.decode(body)


@settings(max_examples=500, deadline=None)
@given(text=st.text('[]{}",:1 \\ta', max_size=24))
def test_what_is_no_json_is_none_in_pieces_either(text):
    body = text.encode()
    try:
        expected = msgspec.json.decode(body)
    except msgspec.DecodeError:
        with pytest.raises(msgspec.DecodeError):
            json_decoding._decode_in_pieces(body, json_decoding._split_at_quotes(body))
    else:
        parts = json_decoding._split_at_quotes(body)
        assert json_decoding._decode_in_pieces(body, parts) == expected


@pytest.mark.parametrize("content", [b"1,", b",1", b"1,,2", b"1,2,3,4,", b"1 2", b"1:2", b"99,x"])
def test_a_list_that_is_none_is_refused_wherever_it_is_cut(content, in_pieces):
    with pytest.raises(msgspec.DecodeError):
        in_pieces(b'{"a": [%b]}' % content)


def test_long_lists_of_integers_are_marked_as_checked():
    body = json.dumps({"a": list(range(50_000)), "b": [0.5] * 50_000, "c": [1, "[2,3]"]})
    value = decode(body.encode())
    assert value == json.loads(body)
    assert (type(value["a"]), type(value["b"])) == (Integers, list)


def test_long_texts_and_long_lists_of_numbers_are_read():
    value = {"text": 'a\n"{[' * 100_000, "ids": list(range(200_000)), "mixed": [1, "a"] * 1000}
    assert decode(json.dumps(value).encode()) == value


@pytest.mark.parametrize("mark", [b"[", b"{", b'"', b",", b"]", b'"a",', b'"\\\\",', b"[1],"])
def test_values_are_counted_before_anything_is_decoded(mark, monkeypatch):
    monkeypatch.setattr(json_decoding.msgspec.json, "decode", lambda _: pytest.fail("decoded"))
    with pytest.raises(ApiError, match="send several requests"):
        decode(mark * (MAX_NUMBERS + MAX_VALUES + 1))


def test_very_many_numbers_next_to_other_values_are_refused():
    with pytest.raises(ApiError, match=re.escape(f"{MAX_NUMBERS} numbers")):
        decode(b'["a"' + b",1" * 100_000 + b"]")


def test_no_piece_is_longer_than_a_piece_may_be(monkeypatch):
    sizes = []
    whole = msgspec.json.decode
    monkeypatch.setattr(
        json_decoding.msgspec.json, "decode", lambda text: sizes.append(len(text)) or whole(text)
    )
    decode(json.dumps({"prompt": [list(range(90_000)), [7] * 90_000]}).encode())
    assert max(sizes) < json_decoding._PIECE_BYTES + 100


@pytest.mark.parametrize("num_digits", [5000, 1_000_000])
@pytest.mark.parametrize("before", [b"", b"1," * 40_000])
def test_a_number_that_is_too_long_is_no_fault_of_the_json(num_digits, before):
    """As of a small body, which Python decodes: so both are refused in the same words."""
    with pytest.raises(ValueError) as refused:
        decode(b'{"a": [' + before + b"1" * num_digits + b"]}")
    assert not isinstance(refused.value, json.JSONDecodeError)
