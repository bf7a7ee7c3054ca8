from __future__ import annotations

import pytest

from server.slice.interfaces import Interface, ipv4_address, read_interfaces

ROUTES = "Iface\tDestination\tGateway\n{name}\t00000000\t0100000A\neth1\t0000090A\t00000000\n"
UP, DOWN, LOOPBACK = "0x1003", "0x1002", "0x9"


@pytest.fixture
def network(tmp_path):
    """Folders as in /sys/class/net, and a routing table."""
    for name, flags, mtu in (
        ("lo", LOOPBACK, 65536),
        ("eth0", UP, 1460),
        ("eth1", UP, 8896),
        ("eth2", DOWN, 8896),
    ):
        folder = tmp_path / "net" / name
        folder.mkdir(parents=True)
        (folder / "flags").write_text(flags)
        (folder / "mtu").write_text(f"{mtu}\n")
    (tmp_path / "net" / "bonding_masters").write_text("")
    (tmp_path / "route").write_text(ROUTES.format(name="eth0"))
    return tmp_path


def read(network):
    addresses = {"eth0": "10.0.0.7", "eth1": ""}
    return read_interfaces(network / "net", network / "route", addresses.__getitem__)


def test_interfaces_that_are_up_are_listed_without_loopback(network):
    assert read(network) == (
        Interface(name="eth0", address="10.0.0.7", mtu=1460, is_default=True),
        Interface(name="eth1", address="", mtu=8896),
    )


def test_the_default_one_is_that_of_the_route_to_everywhere(network):
    (network / "route").write_text(ROUTES.format(name="eth1"))
    assert [each.name for each in read(network) if each.is_default] == ["eth1"]


def test_without_a_routing_table_it_is_the_pods(network):
    (network / "route").unlink()
    assert [each.name for each in read(network) if each.is_default] == ["eth0"]


def test_without_sys_there_are_none(tmp_path):
    assert read_interfaces(tmp_path / "nowhere") == ()


def test_the_kernel_knows_addresses():
    assert ipv4_address("lo") == "127.0.0.1"
    assert ipv4_address("nosuch0") == ""
