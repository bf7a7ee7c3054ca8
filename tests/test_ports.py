from __future__ import annotations

import socket

import pytest

from server.config.server_config import ServerConfig
from server.ports import PortError, address, listening_socket, reserved_ports


def config(**changes):
    return ServerConfig(**({"host": "127.0.0.1", "http_port": 0, "grpc_port": 0} | changes))


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_port_0_becomes_a_definite_port_of_each_kind():
    with reserved_ports(config()) as resolved:
        assert resolved.http_port > 0
        assert resolved.grpc_port > 0
        assert resolved.http_port != resolved.grpc_port


@pytest.mark.parametrize("setting", ["http_port", "grpc_port"])
def test_a_taken_port_is_named_with_its_flag(taken, setting):
    flag = "--" + setting.replace("_", "-")
    with pytest.raises(PortError) as caught, reserved_ports(config(**{setting: taken})):
        pass
    assert str(caught.value) == (
        f"127.0.0.1:{taken} is in use by another process; end that process or choose another {flag}"
    )


def test_a_port_shared_by_reuseport_counts_as_taken():
    with reserved_ports(config()) as resolved:
        listener = listening_socket("127.0.0.1", resolved.http_port)
        listener.listen()
        with pytest.raises(PortError, match="in use"), reserved_ports(resolved):
            pass
        listener.close()


def test_a_reserved_port_counts_as_taken_before_anybody_listens():
    with (
        reserved_ports(config()) as resolved,
        pytest.raises(PortError, match="in use"),
        reserved_ports(resolved),
    ):
        pass


def test_several_processes_may_listen_on_a_reserved_port():
    with reserved_ports(config()) as resolved:
        listeners = [listening_socket("127.0.0.1", resolved.http_port) for _ in range(2)]
        for listener in listeners:
            listener.listen()
        client = socket.create_connection(("127.0.0.1", resolved.http_port), timeout=5)
        client.close()
        for listener in listeners:
            listener.close()


def test_a_port_is_free_again_afterwards():
    with reserved_ports(config()) as resolved:
        pass
    with reserved_ports(resolved) as again:
        assert again == resolved


def test_a_host_that_is_not_this_machine_is_refused():
    refused = pytest.raises(PortError, match=r"cannot listen on 192\.0\.2\.1:0")
    with refused, reserved_ports(config(host="192.0.2.1")):
        pass


def test_a_host_that_does_not_resolve_is_refused():
    with pytest.raises(PortError, match="cannot listen on"), reserved_ports(config(host="!")):
        pass


def test_an_ipv6_host_is_bracketed():
    assert address("::1", 8000) == "[::1]:8000"
    assert address("0.0.0.0", 8000) == "0.0.0.0:8000"


def test_without_a_token_the_admin_ports_are_nobodys():
    with reserved_ports(config(admin_port=8001, admin_grpc_port=8001)):
        pass
