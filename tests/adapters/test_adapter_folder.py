"""What adapters are called, and where they are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.adapters.adapter_folder import (
    AdapterNameError,
    AdapterPlace,
    WantedAdapter,
    find_adapter,
    parse_adapters,
)
from server.versions.served_model import ServedModel


@pytest.fixture
def model(tmp_path):
    """Version 3 of a model, with adapters next to it."""
    for folder in ("3", "adapters/sql/2", "adapters/sql/10", "adapters/sql/latest"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "adapters/plain").mkdir()
    (tmp_path / "adapters/plain/adapter_config.json").write_text("{}")
    return ServedModel(tmp_path / "3", "tiny", "3")


def test_a_setting_names_adapters_by_version_or_path_or_neither():
    assert parse_adapters(" sql, chat@2 ,own=/data/own, ") == [
        WantedAdapter("sql"),
        WantedAdapter("chat", "2"),
        WantedAdapter("own", path="/data/own"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sql@new", "must be NAME, NAME@VERSION with a number"),
        ("own=", "must be NAME, NAME@VERSION with a number, or NAME=PATH"),
        ("a:b", "cannot be an adapter's name"),
        ("=x", "cannot be an adapter's name"),
        ("sql,sql@2", "adapter sql is named twice"),
    ],
)
def test_a_setting_that_names_none_is_refused(text, message):
    with pytest.raises(AdapterNameError, match=message):
        parse_adapters(text)


def test_the_newest_version_lies_next_to_the_models(model, tmp_path):
    adapters = tmp_path / "adapters"
    newest = find_adapter(WantedAdapter("sql"), model)
    assert newest == AdapterPlace("sql", "10", f"{adapters}/sql/10")
    named = find_adapter(WantedAdapter("sql", "2"), model)
    assert named == AdapterPlace("sql", "2", f"{adapters}/sql/2")
    plain = find_adapter(WantedAdapter("plain"), model)
    assert plain == AdapterPlace("plain", "", f"{adapters}/plain")


def test_a_path_may_end_in_a_version(model):
    assert find_adapter(WantedAdapter("a", path="/x/7/"), model).version == "7"
    assert find_adapter(WantedAdapter("a", path="/x/run"), model).version == ""


def test_adapters_of_a_checkpoint_without_a_number_lie_in_it(tmp_path):
    (tmp_path / "adapters/sql/1").mkdir(parents=True)
    found = find_adapter(WantedAdapter("sql"), ServedModel(tmp_path, "tiny", ""))
    assert Path(found.path) == tmp_path / "adapters/sql/1"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (WantedAdapter("none"), "there is no adapter none: .*/adapters/none holds neither"),
        (WantedAdapter("tiny"), "has the model's name"),
        (WantedAdapter("../x"), "cannot be an adapter's name"),
        (WantedAdapter("sql", "../sql/2"), "is no whole number"),
        (WantedAdapter("sql", ""), "is no whole number"),
        (WantedAdapter("sql", "latest", path="/x/7"), "leave it out for the newest"),
    ],
)
def test_what_is_not_there_or_cannot_be_named_is_refused(model, wanted, message):
    with pytest.raises(AdapterNameError, match=message):
        find_adapter(wanted, model)
