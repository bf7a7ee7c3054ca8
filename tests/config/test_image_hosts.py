"""Which hosts the setting `allowed_image_hosts` names."""

from __future__ import annotations

import pytest

from server.config.image_hosts import read_image_hosts
from server.config.setting import ConfigError
from server.config.sources import load_config


@pytest.mark.parametrize(
    ("setting", "hosts"),
    [
        ("", set()),
        (" , ", set()),
        ("a.example, B.Example", {"a.example", "b.example"}),
        ("storage", {"storage"}),
        ("xn--bcher-kva.example", {"xn--bcher-kva.example"}),
    ],
)
def test_hosts_are_separated_by_commas(setting, hosts):
    assert read_image_hosts(setting) == hosts


@pytest.mark.parametrize(
    "setting",
    [
        "https://a.example", "a.example:443", "a.example/x", "*", "*.example", ".example",
        "a..example", "a.example.", "127.0.0.1", "[::1]", "a b", "a_b.example", "bücher.example",
        "u@a.example", f"{'a' * 64}.example", "a.example,1.2.3.4",
    ],
)  # fmt: skip
def test_what_is_no_host_name_is_refused(setting):
    with pytest.raises(ConfigError, match="without scheme, port and path"):
        read_image_hosts(setting)


def test_a_server_does_not_start_with_a_host_that_is_none():
    with pytest.raises(ConfigError, match=r"allowed_image_hosts holds 'https://a\.example'"):
        load_config({"allowed_image_hosts": "https://a.example"}, {})
