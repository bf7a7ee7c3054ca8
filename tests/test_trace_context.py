from __future__ import annotations

import pytest

from server.trace_context import trace_id_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-00f067aa0ba902b7-01",
        f" 00-{TRACE}-00f067aa0ba902b7-00 ",
        f"01-{TRACE}-00f067aa0ba902b7-01-what-comes-later",
    ],
)
def test_the_trace_of_a_header_is_read(header):
    assert trace_id_of(header) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        "",
        "no",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7-01-more",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-00f067aa0ba902b7-01\nforged",
    ],
)
def test_a_header_that_is_no_trace_has_no_id(header):
    assert trace_id_of(header) == ""
