"""Frames as bytes: whatever pieces they come in, they are read whole and in order."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.link.frames import Abort, SamplingParams, Submit
from server.link.framing import MAX_FRAME_BYTES, api_codec, engine_codec

SUBMIT = Submit(
    request_id=7, prompt_token_ids=[1, 2, 3], params=SamplingParams(max_tokens=4), arrival=1.5
)
FRAMES = [SUBMIT, Abort(request_id=7), SUBMIT]
BYTES = b"".join(api_codec().encode(frame) for frame in FRAMES)


@given(cuts=st.lists(st.integers(0, len(BYTES)), max_size=8))
def test_frames_are_read_whatever_pieces_they_come_in(cuts):
    ends = [*sorted(cuts), len(BYTES)]
    codec, buffer, found = engine_codec(), bytearray(), []
    for start, end in zip([0, *ends], ends, strict=False):
        buffer += BYTES[start:end]
        found += codec.feed(buffer)
    assert found == FRAMES
    assert not buffer


def test_a_part_of_a_frame_stays_in_the_buffer():
    first = api_codec().encode(SUBMIT)
    buffer = bytearray(first + first[:-1])
    assert engine_codec().feed(buffer) == [SUBMIT]
    assert buffer == first[:-1]


def test_the_length_stands_before_the_body_in_four_bytes():
    encoded = api_codec().encode(SUBMIT)
    assert int.from_bytes(encoded[:4], "big") == len(encoded) - 4


@pytest.mark.parametrize(("length", "is_refused"), [(0, False), (1, True)])
def test_a_frame_over_the_limit_is_refused_before_its_body_comes(length, is_refused):
    buffer = bytearray((MAX_FRAME_BYTES + length).to_bytes(4, "big"))
    if not is_refused:
        assert engine_codec().feed(buffer) == []
        return
    with pytest.raises(ValueError, match=f"a frame of {MAX_FRAME_BYTES + 1} bytes exceeds"):
        engine_codec().feed(buffer)


def test_a_frame_of_the_other_direction_is_refused():
    with pytest.raises(msgspec.ValidationError):
        api_codec().feed(bytearray(api_codec().encode(SUBMIT)))
