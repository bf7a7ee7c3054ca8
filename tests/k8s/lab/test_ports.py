from __future__ import annotations

import socket
from pathlib import Path

from k8s.lab.ports import HOST, free_ports

EPHEMERAL = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def test_ports_are_free_and_none_that_a_connection_may_be_given():
    with free_ports(20) as ports:
        assert len(set(ports)) == 20
        assert max(ports) < max(EPHEMERAL, 21_000)
    for port in ports:
        socket.create_server((HOST, port)).close()


def test_two_that_hold_ports_have_different_ones():
    with free_ports(200) as some, free_ports(200) as others:
        assert not set(some) & set(others)
