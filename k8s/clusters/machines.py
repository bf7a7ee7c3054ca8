"""Nodes as GKE makes them: labels, taints, capacities, and devices that claims may have.

Pure: gives objects. Machine types and their sizes are those of the server's chart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

type Object = dict[str, Any]
TABLES = Path(__file__).parents[2] / "helm" / "antipode" / "templates" / "_machines.tpl"
ACCELERATORS = {
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "v7x": "tpu7x",
}
INTERFACE_CLASS, CHIP_CLASS = "netdev.google.com", "tpu.google.com"
_INTERFACES = ("eth1", "eth2")
_RESOURCE_API = "resource.k8s.io/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One node. `slice` is a row of the chart's table, such as v6e:2x2, or "" for no TPU. With
    `chips_by_claim` a driver offers the chips, and the device plugin does not.
    """

    name: str
    region: str
    pool: str
    address: str
    slice: str = ""
    chips_by_claim: bool = False


@cache
def chart_table(name: str) -> dict[str, Object]:
    """A table of the chart's helpers: `slices` or `machines`."""
    text = TABLES.read_text()
    found = re.search(rf'define "antipode.{name}" -}}}}\n(.*?)\n{{{{- end', text, re.DOTALL)
    if found is None:
        raise ValueError(f"{TABLES} has no table {name}")
    # The names have colons in them, which YAML allows only within quotes here.
    text = re.sub(r"^([^{]*):(?= )", r'"\1":', found[1], flags=re.MULTILINE)
    table: dict[str, Object] = yaml.safe_load(text)
    return table


def node(machine: Machine) -> Object:
    """The Node that the machine's kubelet registers."""
    labels = {
        "kubernetes.io/hostname": machine.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/region": machine.region,
        "topology.kubernetes.io/zone": f"{machine.region}-a",
        "cloud.google.com/gke-nodepool": machine.pool,
    }
    taints = []
    capacity = {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "100Gi", "pods": "110"}
    if machine.slice:
        row = chart_table("slices")[machine.slice]
        size = chart_table("machines")[row["machine"]]
        generation, topology = machine.slice.split(":")
        labels["node.kubernetes.io/instance-type"] = row["machine"]
        labels["cloud.google.com/gke-tpu-accelerator"] = ACCELERATORS[generation]
        labels["cloud.google.com/gke-tpu-topology"] = topology
        taints = [{"key": "google.com/tpu", "value": "present", "effect": "NoSchedule"}]
        capacity |= {"cpu": str(size["cpus"]), "memory": f"{size['memory']}Gi"}
        if machine.chips_by_claim:
            labels["cloud.google.com/gke-tpu-dra-driver"] = "true"
        else:
            capacity["google.com/tpu"] = str(row["chips"])
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": machine.name, "labels": labels},
        "spec": {"taints": taints},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [{"type": "InternalIP", "address": machine.address}],
            "nodeInfo": _node_info(),
        },
    }


def _node_info() -> Object:
    """Every field is required; the lab knows three."""
    unknown = ("bootID", "kernelVersion", "kubeProxyVersion", "kubeletVersion", "machineID")
    return dict.fromkeys((*unknown, "osImage", "systemUUID"), "") | {
        "architecture": "amd64",
        "operatingSystem": "linux",
        "containerRuntimeVersion": "lab://processes",
    }


def device_classes() -> list[Object]:
    """The classes that GKE and the TPU driver bring."""
    return [
        {
            "apiVersion": _RESOURCE_API,
            "kind": "DeviceClass",
            "metadata": {"name": name},
            "spec": {"selectors": [{"cel": {"expression": f'device.driver == "{name}"'}}]},
        }
        for name in (INTERFACE_CLASS, CHIP_CLASS)
    ]


def resource_slices(machine: Machine) -> list[Object]:
    """What claims may have of a TPU machine: its further interfaces and, by claim, its chips."""
    if not machine.slice:
        return []
    interfaces = [
        {"name": name, "attributes": {f"{INTERFACE_CLASS}/ifName": {"string": name}}}
        for name in _INTERFACES
    ]
    found = [_resource_slice(machine, INTERFACE_CLASS, interfaces)]
    if machine.chips_by_claim:
        found.append(_resource_slice(machine, CHIP_CLASS, _chips(machine)))
    return found


def _chips(machine: Machine) -> list[Object]:
    row = chart_table("slices")[machine.slice]
    generation, topology = machine.slice.split(":")
    attributes = {
        "tpuGen": {"string": {"v5e": "v5litepod", "v7x": "tpu7x"}.get(generation, generation)},
        "topology": {"string": topology},
        "accelerator": {"string": ACCELERATORS[generation]},
        "chipCount": {"int": row["chips"]},
    }
    return [
        {"name": f"chip-{index}", "attributes": attributes | {"index": {"int": index}}}
        for index in range(row["chips"])
    ]


def _resource_slice(machine: Machine, driver: str, devices: list[Object]) -> Object:
    kind = driver.split(".")[0]
    return {
        "apiVersion": _RESOURCE_API,
        "kind": "ResourceSlice",
        "metadata": {"name": f"{machine.name}-{kind}"},
        "spec": {
            "driver": driver,
            "nodeName": machine.name,
            "pool": {"name": machine.name, "generation": 1, "resourceSliceCount": 1},
            "devices": devices,
        },
    }
