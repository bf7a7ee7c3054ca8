"""Ports for the lab's processes, which restart on the same ports."""

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
    """Free ports, held until the end of the context.

    They are below the kernel's range for outgoing connections. An outgoing connection on a server's
    port would keep the server from starting again.
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
