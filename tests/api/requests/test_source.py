"""Who counts as one source of requests."""

from __future__ import annotations

import pytest

from server.api.requests.source import FAIRNESS_HEADERS, source_of


def test_an_address_is_a_source():
    assert source_of({}, "10.0.0.1") == source_of({}, "10.0.0.1") != source_of({}, "10.0.0.2")


def test_a_caller_is_a_source_from_wherever_it_comes():
    search = source_of({}, "10.0.0.1", caller="search")
    assert search == source_of({}, "10.0.0.2", caller="search")
    assert search not in (source_of({}, "10.0.0.1"), source_of({}, "10.0.0.1", caller="batch"))


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
@pytest.mark.parametrize("trusts_ids", [True, False])
def test_a_key_that_nobody_has_checked_is_no_source(header, trusts_ids):
    """Else a client that invents one for each request gets a turn for each."""
    invented = [
        source_of({header: f"Bearer {number}"}, "10.0.0.1", trusts_ids=trusts_ids)
        for number in range(3)
    ]
    assert set(invented) == {source_of({}, "10.0.0.1")}


@pytest.mark.parametrize("header", FAIRNESS_HEADERS)
def test_a_fairness_id_counts_more_than_a_caller(header):
    named = {header: "tenant"}
    one = source_of(named, "10.0.0.1", caller="search")
    assert one == source_of(named, "10.0.0.2")
    assert one != source_of({}, "10.0.0.1", caller="search")
    assert one != source_of(named, "10.0.0.1", caller="search", trusts_ids=False)


def test_an_empty_fairness_id_is_none():
    empty = {FAIRNESS_HEADERS[0]: " "}
    assert source_of(empty, "", caller="search") == source_of({}, "", caller="search")


def test_a_caller_is_not_the_fairness_id_of_the_same_text():
    assert source_of({FAIRNESS_HEADERS[0]: "search"}, "") != source_of({}, "", caller="search")


def test_a_source_shows_nothing_of_whom_it_stands_for():
    assert "search" not in source_of({}, "10.0.0.1", caller="search")
    assert len(source_of({}, "", caller="y" * 9999)) == 16
