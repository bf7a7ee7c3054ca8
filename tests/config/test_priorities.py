from __future__ import annotations

import pytest

from server.config.priorities import read_priorities, read_priority


def test_objectives_have_names_and_priorities():
    assert read_priorities("interactive=10, batch=-1,") == {"interactive": 10, "batch": -1}
    assert read_priorities("") == {}


@pytest.mark.parametrize("setting", ["batch", "=1", "a=2147483648", "a=x", "a=1=2", "a=--1"])
def test_what_is_no_objective_is_named(setting):
    with pytest.raises(ValueError, match="no objective; write NAME=PRIORITY"):
        read_priorities(setting)


@pytest.mark.parametrize("text", ["", "x", "1.5", "2147483648", "-2147483648", "٣", "9" * 400])
def test_what_is_no_priority_is_none(text):
    assert read_priority(text) is None
