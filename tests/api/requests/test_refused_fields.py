"""A table's fields are refused with what to do instead, unless their value changes nothing."""

from __future__ import annotations

import pytest

from server.api.requests.refused_fields import check_fields, refused
from server.errors import ApiError

TABLE = {
    **refused("n best_of", "send several", 1),
    **refused("echo", "leave it out", False),
}


@pytest.mark.parametrize("extra", [{"n": 1}, {"n": None}, {"echo": False}, {"other": 5}, {}])
def test_values_that_change_nothing_pass(extra):
    check_fields(extra, TABLE, "/v1/x")


@pytest.mark.parametrize("extra", [{"n": 2}, {"best_of": 3}, {"n": True}, {"echo": 0}])
def test_other_values_are_refused_by_name(extra):
    with pytest.raises(ApiError) as caught:
        check_fields(extra, TABLE, "/v1/x")
    (name,) = extra
    assert caught.value.message.startswith(f"{name} is not supported by /v1/x; ")
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
