"""The slice as metrics: what the server runs on, and its network interfaces."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from server.slice.interfaces import Interface
from server.slice.resolve import Slice


def slice_families(found: Slice | None) -> Iterator[Metric]:
    """One series a family without content where nothing is known."""
    labels = {
        "generation": found.generation if found else "",
        "topology": found.topology if found else "",
        "chips": str(found.chips) if found else "",
        "hosts": str(found.hosts) if found else "",
        "host_index": str(found.host_index) if found else "",
        "claim": found.claim.name if found else "",
        "interface_class": found.claim.interface_class if found else "",
    }
    info = GaugeMetricFamily(
        "antipode_slice_info",
        "1 with the slice this server runs on; 0 until it is known.",
        labels=list(labels),
    )
    info.add_metric(list(labels.values()), float(found is not None))
    yield info
    interfaces = GaugeMetricFamily(
        "antipode_network_interface_info",
        "1 for every network interface that is up; 0 where none is known.",
        labels=["interface", "address", "mtu", "default"],
    )
    for each in found.interfaces if found else ():
        interfaces.add_metric(_labels(each), 1)
    if not interfaces.samples:
        interfaces.add_metric(["", "", "", ""], 0)
    yield interfaces


def _labels(interface: Interface) -> list[str]:
    is_default = "true" if interface.is_default else "false"
    return [interface.name, interface.address, str(interface.mtu), is_default]
