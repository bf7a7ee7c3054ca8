"""Who may reach a server, by its settings, and what an operator is told of it."""

from __future__ import annotations

import pytest

from server.config.server_config import ServerConfig
from server.ports import host_of, is_open_to_strangers
from server.processes.api.access import warn_of_strangers

KEYS, CERTIFICATES = {"api_keys_file": "keys"}, {"tls_client_ca_file": "ca.crt"}
STRANGERS = "other machines can call this server without a key"
CLEAR_TEXT = "API keys travel in clear text"


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({}, "127.0.0.1"),
        (KEYS, "0.0.0.0"),
        (CERTIFICATES, "0.0.0.0"),
        (KEYS | {"host": "10.0.0.7"}, "10.0.0.7"),
        ({"host": "0.0.0.0"}, "0.0.0.0"),
    ],
)
def test_other_machines_reach_a_server_only_with_proofs_or_by_a_setting(settings, host):
    assert host_of(ServerConfig(**settings)) == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "server.example"])
def test_a_server_that_anybody_may_call_is_open(host):
    assert is_open_to_strangers(ServerConfig(host=host))
    for proof in (KEYS, CERTIFICATES):
        assert not is_open_to_strangers(ServerConfig(host=host, **proof))


@pytest.mark.parametrize("host", ["", "127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_a_server_of_its_own_machine_is_not_open(host):
    assert not is_open_to_strangers(ServerConfig(host=host))


@pytest.mark.parametrize(
    ("settings", "warnings"),
    [
        ({}, []),
        ({"host": "0.0.0.0"}, [STRANGERS]),
        (KEYS, [CLEAR_TEXT]),
        (KEYS | {"tls_cert_file": "tls.crt"}, []),
        (CERTIFICATES | {"tls_cert_file": "tls.crt"}, []),
    ],
)
def test_an_operator_is_warned_of_strangers_and_of_keys_in_clear_text(settings, warnings, caplog):
    warn_of_strangers(ServerConfig(**settings))
    assert len(caplog.messages) == len(warnings)
    for line, warning in zip(caplog.messages, warnings, strict=True):
        assert line.startswith(warning)
