"""Checks and reserves the listening ports, which the API processes share.

A port is shared by SO_REUSEPORT. That would also let another process of the same user share the
port unnoticed, so the main process first checks that a port is free, and then keeps it reserved.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address

from server.config.server_config import ServerConfig


class PortError(Exception):
    """A port cannot be used; the message names it and says why."""


@contextmanager
def reserved_ports(config: ServerConfig) -> Iterator[ServerConfig]:
    """Reserve all ports for this block; yields the config with an empty host and port 0 replaced.

    Admin ports are reserved only if there is a token for them. Raises PortError when a port is
    taken, or when the host is no address of this machine.
    """
    config = replace(config, host=host_of(config))
    with (
        _reserve(config.host, config.http_port, "--http-port") as http_port,
        _reserve(config.host, config.grpc_port, "--grpc-port") as grpc_port,
    ):
        config = replace(config, http_port=http_port, grpc_port=grpc_port)
        if not config.admin_token_file:
            yield config
            return
        host = config.admin_host
        with (
            _reserve(host, config.admin_port, "--admin-port") as admin_port,
            _reserve(host, config.admin_grpc_port, "--admin-grpc-port") as admin_grpc_port,
        ):
            yield replace(config, admin_port=admin_port, admin_grpc_port=admin_grpc_port)


def host_of(config: ServerConfig) -> str:
    """Where to listen: on every address only if callers must prove who they are."""
    are_callers_known = config.api_keys_file or config.tls_client_ca_file
    return config.host or ("0.0.0.0" if are_callers_known else "127.0.0.1")


def is_open_to_strangers(config: ServerConfig) -> bool:
    """Whether other machines may call the server without a key or a certificate."""
    if config.api_keys_file or config.tls_client_ca_file:
        return False
    host = host_of(config)
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on a reserved port, next to those of the other API processes."""
    listener = _bound_socket(host, port, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
    listener.setblocking(False)
    return listener


def address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def _reserve(host: str, port: int, flag: str) -> Iterator[int]:
    """Bind without listening: no connection comes to this socket, and nobody else gets the port."""
    try:
        # Without SO_REUSEPORT, this bind fails if a process listens: this is only the check.
        _bound_socket(host, port, socket.SO_REUSEADDR).close()
        reservation = _bound_socket(host, port, socket.SO_REUSEPORT)
    except OSError as error:
        raise PortError(_reason(host, port, flag, error)) from error
    with reservation:
        yield reservation.getsockname()[1]


def _bound_socket(host: str, port: int, *options: int) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(where)
    except OSError:
        bound.close()
        raise
    return bound


def _reason(host: str, port: int, flag: str, error: OSError) -> str:
    where = address(host, port)
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use by another process; end that process or choose another {flag}"
    if error.errno == errno.EACCES:
        return f"{where} needs more rights than this user has; choose a {flag} above 1023"
    return f"cannot listen on {where}: {error.strerror or error}"
