from __future__ import annotations

import hashlib

import pytest

from server.api.access import api_keys
from server.api.access.api_keys import Allowance, ApiKeysError, read_api_keys

KEY, OTHER = "a-key-of-the-search-team", "a-key-of-the-batch-team"


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / "keys").write_text(text)
        return read_api_keys(tmp_path / "keys")

    return read


def test_a_key_finds_whose_it_is(read):
    keys = read(f"# keys\n\nsearch: {KEY}\n  batch: {OTHER} tokens_per_minute=500\n")
    assert keys.names == {"search", "batch"}
    assert keys.find(KEY).name == "search"
    assert keys.find(KEY).allowance == Allowance()
    assert keys.find(OTHER).allowance == Allowance(tokens_per_minute=500)


def test_no_digest_made_elsewhere_is_that_of_a_key(read, monkeypatch):
    here = read(f"search: {KEY}")
    monkeypatch.setattr(api_keys, "_SECRET", b"of another process")
    assert here.find(KEY) is None
    assert read(f"search: {KEY}").find(KEY).name == "search"
    assert hashlib.sha256(KEY.encode()).digest() not in here._callers


@pytest.mark.parametrize("given", ["", KEY[:-1], KEY + "x", KEY.upper(), "search", "\ud800"])
def test_another_key_finds_nobody(read, given):
    assert read(f"search: {KEY}").find(given) is None


def test_a_name_may_have_several_keys_while_one_replaces_the_other(read):
    keys = read(f"search: {KEY}\nsearch: {OTHER}")
    assert keys.find(KEY) == keys.find(OTHER)


def test_a_key_may_hold_what_separates_names(read):
    assert read("search: sk-proj:abc=def:0123").find("sk-proj:abc=def:0123").name == "search"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no key"),
        ("# search: x", "has no key"),
        (KEY, "line 1 of .* is no key"),
        (f"search {KEY}", "is no key"),
        (f"se arch: {KEY}", "is no key"),
        ("search:", "is no key"),
        (f"ok: {OTHER}\nsearch: short-secret", "line 2 of .* has 12 characters"),
        (f"search: {KEY} tokens=5", "a limit on line 1"),
        (f"search: {KEY} tokens_per_minute=many", "a limit on line 1"),
        (f"search: {KEY} tokens_per_minute=0", "a limit on line 1"),
        (f"search: {KEY}\nbatch: {KEY}", "gives batch the key of another name"),
        (f"search: {KEY} tokens_per_minute=5\nsearch: {OTHER}", "other limits"),
        ("\n".join(f"n{i}: {KEY}-{i}" for i in range(1001)), "at most 1000"),
    ],
)
def test_a_wrong_file_is_refused_by_line_and_never_shows_a_key(read, text, words):
    with pytest.raises(ApiKeysError, match=words) as caught:
        read(text)
    assert KEY not in str(caught.value)
    assert "short-secret" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ApiKeysError, match=r"cannot be read.*missing"):
        read_api_keys(tmp_path / "missing")


def test_no_key_is_kept_in_memory(read):
    keys = read(f"search: {KEY}")
    assert KEY not in repr(vars(keys))
