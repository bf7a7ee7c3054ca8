"""Which web origins the setting `cors_origins` names."""

from __future__ import annotations

import pytest

from server.config.cors_origins import read_origins
from server.config.setting import ConfigError


@pytest.mark.parametrize(
    ("setting", "origins"),
    [
        ("", []),
        (" , ", []),
        ("*", ["*"]),
        ("http://a:3000/, https://b.example", ["http://a:3000", "https://b.example"]),
        ("tauri://localhost,null", ["tauri://localhost", "null"]),
    ],
)
def test_origins_are_separated_by_commas(setting, origins):
    assert read_origins(setting) == origins


@pytest.mark.parametrize("setting", ["example.org", "https://a/path", "https://a b", "https://"])
def test_what_no_browser_sends_as_an_origin_is_refused(setting):
    with pytest.raises(ConfigError, match="scheme://host"):
        read_origins(setting)
