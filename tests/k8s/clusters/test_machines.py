"""Nodes and their devices, as the charts' tables and claims expect them."""

from __future__ import annotations

import pytest
import yaml

from k8s.clusters.kubelet.environment import quantity
from k8s.clusters.machines import (
    Machine,
    chart_table,
    device_classes,
    node,
    resource_slices,
)
from tests.helm.charts import PROJECT, case_values, find, merged, pods_of, render


def machine(slice_name, **others):
    return Machine(name="n", region="r", pool="p", address="10.1.1.1", slice=slice_name, **others)


def test_every_slice_of_the_chart_has_a_machine_with_a_size():
    assert {row["machine"] for row in chart_table("slices").values()} == {*chart_table("machines")}


@pytest.mark.parametrize("slice_name", [*chart_table("slices")])
def test_the_charts_pod_finds_its_node(slice_name):
    values = merged(case_values("antipode", "v6e-4x4"), {"slice": slice_name})
    smaller = {"resources.memory": "24Gi", "fuse.fileCache": "8Gi", "dranet.enabled": False}
    values = merged(values, smaller)
    [pod, *_] = pods_of(render("antipode", values))
    made = node(machine(slice_name))
    labels, capacity = made["metadata"]["labels"], made["status"]["capacity"]
    assert pod["spec"]["nodeSelector"].items() <= labels.items()
    limits = pod["spec"]["containers"][0]["resources"]["limits"]
    assert limits["google.com/tpu"] == capacity["google.com/tpu"]


@pytest.mark.parametrize("case", ["chips-by-claim", "chips-of-two-generations"])
def test_a_machine_with_chips_by_claim_has_what_the_claim_asks_for(case):
    objects = render("antipode", case_values("antipode", case))
    claim = find(objects, "ResourceClaimTemplate")["spec"]["spec"]["devices"]["requests"]
    made = machine(case_values("antipode", case).get("slice", "v6e:2x2"), chips_by_claim=True)
    drivers = {one["spec"]["driver"] for one in resource_slices(made)}
    asked = [alternative for one in claim for alternative in one.get("firstAvailable", [one])]
    classes = {one.get("exactly", one)["deviceClassName"] for one in asked}
    assert classes <= drivers == {one["metadata"]["name"] for one in device_classes()}
    assert "google.com/tpu" not in node(made)["status"]["capacity"]
    [pod] = pods_of(objects)
    assert pod["spec"]["nodeSelector"].items() <= node(made)["metadata"]["labels"].items()


def test_a_machine_without_tpus_has_no_taint_and_no_devices():
    made = machine("")
    assert node(made)["spec"]["taints"] == []
    assert resource_slices(made) == []


def test_the_pickers_of_two_releases_leave_room_for_a_test_pod():
    picker = yaml.safe_load((PROJECT / "helm" / "antipode" / "values.yaml").read_text())["picker"]
    other = node(Machine(name="n", region="r", pool="default", address="10.1.4.1"))
    sizes = other["status"]["allocatable"]
    asked = 2 * picker["replicas"]
    assert quantity(sizes["cpu"]) > asked * quantity(picker["cpu"])
    assert quantity(sizes["memory"]) > asked * quantity(picker["memory"])
