from __future__ import annotations

from itertools import pairwise

import pytest
from antipode import ServerError
from antipode.transports.sse import EventParser
from hypothesis import given
from hypothesis import strategies as st

# After the examples in the WHATWG's chapter on server-sent events.
STREAM = (
    b"\xef\xbb\xbf: a comment\r\n\r\n"
    b"data: first event\r\nid: 1\r\nretry: 10\r\n\r\n"
    b"data:second\rdata\rdata:  two spaces\r\r"
    b"event: other\ndata: for another listener\n\n"
    b"event: error\ndata: for us\n\n"
    b"data\n\n"
    b"datax: unknown\n\n"
    b"data: never ended"
)
EVENTS = [b"first event", b"second\n\n two spaces", b"for us", b""]


def events(*parts, max_bytes=1 << 20):
    parser = EventParser(max_bytes)
    return [data for part in parts for data in parser.feed(part)]


def test_events_are_read_as_the_standard_says():
    assert events(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM))))
def test_where_reads_cut_the_stream_changes_nothing(cuts):
    bounds = [0, *sorted(cuts), len(STREAM)]
    assert events(*(STREAM[a:b] for a, b in pairwise(bounds))) == EVENTS


def test_every_byte_may_come_by_itself():
    assert events(*(bytes([byte]) for byte in STREAM)) == EVENTS


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_each_line_end_ends_a_line_once(end):
    assert events(b"data: a" + end + b"data: b" + end + end) == [b"a\nb"]


def test_a_line_without_an_end_is_read_only_so_far():
    with pytest.raises(ServerError, match="more than 100 bytes in one line"):
        events(*[b"data: x"] * 15, max_bytes=100)


def test_an_event_without_an_end_is_read_only_so_far():
    with pytest.raises(ServerError, match="more than 100 bytes in one event"):
        events(*[b"data: x\n"] * 51, max_bytes=100)


def test_a_comment_without_an_end_is_bounded_too():
    with pytest.raises(ServerError, match="in one line"):
        events(b":" * 101, max_bytes=100)
