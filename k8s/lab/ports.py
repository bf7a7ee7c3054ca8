"""Ports for what the lab starts, and will start again on the same ones."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

HOST = "127.0.0.1"
_LOWEST = 20_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


@contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Ports nobody listens on now; held until the end of the context.

    They lie below those that the kernel gives to connections going out, one of which would keep a
    server from coming back.
    """
    candidates = range(_LOWEST, max(_LOWEST + 1000, int(_EPHEMERAL.read_text().split()[0])))
    ports: list[int] = []
    with ExitStack() as held:
        for port in random.sample(candidates, len(candidates)):
            with suppress(OSError):
                held.enter_context(socket.create_server((HOST, port)))
                ports.append(port)
            if len(ports) == count:
                break
        yield ports
