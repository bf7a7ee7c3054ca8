"""Who counts as one source of requests."""

from __future__ import annotations

import pytest

from server.api.requests.source import FAIRNESS_HEADERS, source_of

KEY = {"authorization": "Bearer sk-1"}


def test_an_address_is_a_source():
    assert source_of({}, "10.0.0.1") == source_of({}, "10.0.0.1") != source_of({}, "10.0.0.2")


def test_a_key_is_a_source_from_wherever_it_comes():
    assert source_of(KEY, "10.0.0.1") == source_of(KEY, "10.0.0.2") != source_of({}, "10.0.0.1")


def test_a_key_in_anthropics_header_is_a_source_too():
    one, other = {"x-api-key": "sk-1"}, {"x-api-key": "sk-2"}
    assert source_of(one, "10.0.0.1") == source_of(one, "10.0.0.2") != source_of(other, "10.0.0.1")


@pytest.mark.parametrize("header", FAIRNESS_HEADERS)
def test_a_fairness_id_counts_more_than_a_key(header):
    named = {header: "tenant"}
    assert source_of(named | KEY, "10.0.0.1") == source_of(named, "10.0.0.2")
    assert source_of(named | KEY, "10.0.0.1") != source_of(KEY, "10.0.0.1")


def test_an_empty_fairness_id_is_none():
    assert source_of({FAIRNESS_HEADERS[0]: " "} | KEY, "") == source_of(KEY, "")


def test_a_key_is_not_the_fairness_id_of_the_same_text():
    assert source_of({FAIRNESS_HEADERS[0]: "Bearer sk-1"}, "") != source_of(KEY, "")


def test_a_source_shows_nothing_of_the_key():
    assert "sk-1" not in source_of(KEY, "10.0.0.1")
    assert len(source_of(KEY | {"x": "y" * 9999}, "10.0.0.1")) == 16
