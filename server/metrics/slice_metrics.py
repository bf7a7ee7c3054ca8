"""The slice as metrics: the chips of the server, its network interfaces and their use.

A number without a source is NaN and never 0, because 0 would be a load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from server.slice.chips import ChipUse
from server.slice.host_group import HostLink
from server.slice.interfaces import Interface
from server.slice.resolve import Slice


def slice_metrics(found: Slice | None) -> Iterator[Metric]:
    """The families of the slice; each has one series with empty labels where nothing is known."""
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
        "1 with the slice that this server runs on; 0 until it is known.",
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


def link_metric(links: tuple[HostLink, ...]) -> Metric:
    """How the other hosts are reached; one series with empty labels where there are none."""
    family = GaugeMetricFamily(
        "antipode_host_link_info",
        "1 for each other host of the slice; network is claimed or pod, where pod means that no "
        "claimed interface leads to the host; 0 where there are no other hosts.",
        labels=["host_index", "network", "interface", "address"],
    )
    for link in links:
        network = "claimed" if link.interface else "pod"
        family.add_metric([str(link.index), network, link.interface, link.address], 1)
    if not links:
        family.add_metric(["", "", "", ""], 0)
    return family


def chip_metrics(hosts: Mapping[int, ChipUse]) -> Iterator[Metric]:
    """The use of every chip of every host, the fullest and the busiest. `hosts` is by index."""
    source = GaugeMetricFamily(
        "antipode_chip_metrics_source",
        "1 where this kind of chip metrics has a source; 0 where their value is NaN.",
        labels=["kind"],
    )
    for kind, values in _KINDS.items():
        source.add_metric([kind], float(any(values(use) for use in hosts.values())))
    yield source
    for name, label, description, values in _EACH:
        by_host = {index: values(use) for index, use in hosts.items()}
        yield _by_number(f"antipode_{name}", description, label, by_host)
    for name, description, values in _MOST:
        family = GaugeMetricFamily(f"antipode_{name}", description)
        found = [number for use in hosts.values() for number in values(use).values()]
        family.add_metric([], max(found, default=math.nan))
        yield family


def _fullness(use: ChipUse) -> _Values:
    return {device: used / use.hbm_limit[device] for device, used in use.hbm_used.items()}


type _Values = Mapping[int, float]
type _Read = Callable[[ChipUse], _Values]

_KINDS: Mapping[str, _Read] = {
    "hbm": lambda use: use.hbm_used,
    "duty_cycle": lambda use: use.duty_cycle,
    "tensorcore_utilization": lambda use: use.tensorcore_utilization,
}
# Metric name, label of each series, description, and the values to read.
_EACH: Sequence[tuple[str, str, str, _Read]] = (
    ("hbm_used_bytes", "device", "Memory of a device that is used.", lambda use: use.hbm_used),
    (
        "hbm_limit_bytes",
        "device",
        "Memory of a device that can be used.",
        lambda use: use.hbm_limit,
    ),
    (
        "chip_duty_cycle_ratio",
        "chip",
        "Part of the time a chip's TensorCores were busy, 0 to 1, from the TPU runtime; up to "
        "tpu_metrics_interval_seconds old.",
        lambda use: use.duty_cycle,
    ),
    (
        "chip_tensorcore_utilization_ratio",
        "core",
        "Utilization of a TensorCore, 0 to 1 of its peak, from the TPU's SDK; up to "
        "tpu_metrics_interval_seconds old.",
        lambda use: use.tensorcore_utilization,
    ),
)
_MOST: Sequence[tuple[str, str, _Read]] = (
    ("hbm_usage_ratio", "Part of the memory used on the fullest device, 0 to 1.", _fullness),
    ("duty_cycle_ratio", "Duty cycle of the busiest chip, 0 to 1.", lambda use: use.duty_cycle),
    (
        "tensorcore_utilization_ratio",
        "Utilization of the busiest TensorCore, 0 to 1.",
        lambda use: use.tensorcore_utilization,
    ),
)


def _by_number(
    name: str, description: str, label: str, by_host: Mapping[int, _Values]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, description, labels=["host_index", label])
    for index, values in sorted(by_host.items()):
        for number, value in sorted(values.items()):
            family.add_metric([str(index), str(number)], value)
    if not family.samples:
        family.add_metric(["", ""], math.nan)
    return family


def _labels(interface: Interface) -> list[str]:
    is_default = "true" if interface.is_default else "false"
    return [interface.name, interface.address, str(interface.mtu), is_default]
