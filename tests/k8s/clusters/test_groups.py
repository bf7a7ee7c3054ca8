"""The machines of servers of several hosts."""

from __future__ import annotations

from collections import Counter

from k8s.clusters.groups import NUM_GROUPS, NUM_HOSTS, machines
from k8s.clusters.machines import node


def test_each_group_has_a_slice_of_machines_of_its_own():
    made = [node(machine) for machine in machines("us-east5")]
    pools = Counter(one["metadata"]["labels"]["cloud.google.com/gke-nodepool"] for one in made)
    assert pools == {"slice-0": NUM_HOSTS, "slice-1": NUM_HOSTS, "default": 1}
    assert len(pools) == NUM_GROUPS + 1
    topologies = {
        one["metadata"]["labels"].get("cloud.google.com/gke-tpu-topology") for one in made
    }
    assert topologies == {"4x4", None}
    addresses = [one["status"]["addresses"][0]["address"] for one in made]
    assert len({*addresses}) == len(addresses)
