"""The matrix of environments: each gives the slice that was expected, or the refusal."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from server.config.engine_config import EngineConfig
from server.slice.host_group import find_group
from server.slice.interfaces import Interface
from server.slice.reported_slice import (
    SliceMismatchError,
    describe_devices,
    read_claim,
    read_environment,
)
from server.slice.resolve import Sources, resolve

ETH0 = Interface(name="eth0", address="10.0.0.7", mtu=1460, is_default=True)
ETH1 = Interface(name="eth1", address="10.9.0.1", mtu=8896)
ETH2 = Interface(name="eth2", address="10.9.0.2", mtu=8896)
HBM = 32 << 30


def workers(hostnames, index):
    """The group that GKE's variables name."""
    variables = {"TPU_WORKER_HOSTNAMES": hostnames, "TPU_WORKER_ID": str(index)}
    return find_group(EngineConfig(), variables)


@dataclass(frozen=True)
class FakeDevice:
    """What of a JAX device is read."""

    platform: str
    device_kind: str
    coords: tuple[int, ...] = ()
    process_index: int = 0

    def memory_stats(self):
        return {"bytes_limit": HBM} if self.platform == "tpu" else None


def tpu(kind, *extents, per_chip=1, hosts=1):
    """The devices of a slice, as JAX of host 0 sees them."""
    x, y, z = (*extents, 1)[:3]
    places = [(i, j, k) for k in range(z) for j in range(y) for i in range(x)]
    of_host = len(places) // hosts
    devices = [
        FakeDevice("tpu", kind, place, number // of_host)
        for number, place in enumerate(places)
        for _ in range(per_chip)
    ]
    return describe_devices(devices, hosts, 0)


def environment(accelerator, topology, chips_per_host="2,2,1", hosts="1,1,1"):
    return read_environment(
        {
            "TPU_ACCELERATOR_TYPE": accelerator,
            "TPU_TOPOLOGY": topology,
            "TPU_CHIPS_PER_HOST_BOUNDS": chips_per_host,
            "TPU_HOST_BOUNDS": hosts,
        }
    )


CLAIM_UID = "03f5fca0-c04c-43d2-9ba9-db6f570bce00"


def by_claim():
    """What the DRA driver of TPUs injects for the four chips of one host."""
    devices = {f"TPU_DEVICE_tpu{i}_RESOURCE_CLAIM": CLAIM_UID for i in range(4)}
    return devices | {
        "TPU_ACCELERATOR_TYPE": "v6e-4",
        "TPU_TOPOLOGY": "2x2",
        "TPU_HOST_BOUNDS": "1,1,1",
        "TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1",
        "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_SKIP_MDS_QUERY": "true",
    }


def claim(**settings):
    return read_claim(EngineConfig(**settings))


CLAIMED = claim(slice_accelerator="v6e", slice_topology="2x2", slice_chips=4, claim_name="netdev")


class TestSlices:
    @pytest.mark.parametrize(
        ("devices", "variables", "asked", "generation", "topology", "chips"),
        [
            (
                tpu("TPU v6 lite", 1, 1),
                environment("v6e-1", "1x1", "1,1,1"),
                "1x1",
                "v6e",
                "1x1",
                1,
            ),
            (tpu("TPU v6 lite", 2, 2), environment("v6e-4", "2x2"), "2x2", "v6e", "2x2", 4),
            (
                tpu("TPU v6 lite", 2, 4),
                environment("v6e-8", "2x4", "2,4,1"),
                "2x4",
                "v6e",
                "2x4",
                8,
            ),
            (tpu("TPU v5 lite", 2, 2), environment("v5litepod-4", "2x2"), "2x2", "v5e", "2x2", 4),
        ],
    )
    def test_one_host_is_what_all_sources_say(
        self, devices, variables, asked, generation, topology, chips
    ):
        wanted = claim(slice_accelerator=generation, slice_topology=asked, slice_chips=chips)
        found = resolve(Sources(devices=devices, environment=variables, claim=wanted))
        assert (found.generation, found.topology, found.chips) == (generation, topology, chips)
        assert (found.hosts, found.host_index, found.hbm_bytes_per_chip) == (1, 0, HBM)

    def test_chips_by_claim_are_what_the_driver_says(self):
        variables = by_claim()
        wanted = claim(
            slice_accelerator="v6e",
            slice_topology="2x2",
            slice_chips=4,
            chip_claim_name="prod-slice",
        )
        found = resolve(
            Sources(
                devices=tpu("TPU v6 lite", 2, 2),
                environment=read_environment(variables),
                claim=wanted,
                group=find_group(EngineConfig(), variables),
            )
        )
        assert (found.generation, found.topology, found.chips) == ("v6e", "2x2", 4)
        assert (found.hosts, found.host_index) == (1, 0)
        assert found.chip_claims == (CLAIM_UID,)

    def test_a_chart_without_chips_leaves_open_how_they_come(self):
        found = resolve(Sources(environment=read_environment(by_claim())))
        assert found.chip_claims == (CLAIM_UID,)

    def test_four_hosts_of_a_4x4(self):
        group = find_group(
            EngineConfig(), {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "0"}
        )
        found = resolve(
            Sources(
                devices=tpu("TPU v6 lite", 4, 4, hosts=4),
                environment=environment("v6e-16", "4x4", "2,2,1", "2,2,1"),
                group=group,
            )
        )
        assert (found.topology, found.chips, found.hosts) == ("4x4", 16, 4)
        assert found.hostnames == ("a", "b", "c", "d")

    def test_two_devices_are_one_chip_of_a_v7x(self):
        found = resolve(Sources(devices=tpu("TPU7x", 2, 2, per_chip=2)))
        assert (found.generation, found.topology) == ("v7x", "2x2x1")
        assert (found.chips, found.devices, found.hbm_bytes_per_chip) == (4, 8, 2 * HBM)

    def test_a_cpu_is_described_like_anything_else(self):
        devices = describe_devices([FakeDevice("cpu", "cpu")] * 8, 1, 0)
        found = resolve(Sources(devices=devices, interfaces=(ETH0,)))
        assert (found.generation, found.topology, found.chips) == ("cpu", "", 8)
        assert found.hbm_bytes_per_chip is None

    def test_variables_alone_say_what_they_know(self):
        found = resolve(Sources(environment=environment("v6e-4", "2x2")))
        assert (found.generation, found.topology, found.chips, found.hosts) == ("v6e", "2x2", 4, 1)

    def test_nothing_is_needed(self):
        found = resolve(Sources())
        assert (found.generation, found.chips, found.hosts) == ("", 0, 1)

    @pytest.mark.parametrize("topology", ["2x4x1", "4x2"])
    def test_axes_may_come_in_any_order_and_with_a_last_one(self, topology):
        found = resolve(
            Sources(devices=tpu("TPU v6 lite", 2, 4), claim=claim(slice_topology=topology))
        )
        assert found.chips == 8

    def test_interfaces_beside_the_pods_own_are_the_claims(self):
        sources = Sources(
            devices=tpu("TPU v6 lite", 2, 2), claim=CLAIMED, interfaces=(ETH0, ETH1, ETH2)
        )
        assert resolve(sources).claimed_interfaces == (ETH1, ETH2)

    def test_an_interface_that_was_not_asked_for_is_no_mistake(self):
        assert resolve(Sources(interfaces=(ETH0, ETH1))).claimed_interfaces == (ETH1,)


class TestRefusals:
    @pytest.mark.parametrize(
        ("sources", "words"),
        [
            (
                Sources(devices=tpu("TPU v5 lite", 2, 2), claim=claim(slice_accelerator="v6e")),
                "accelerator is v5e according to JAX's devices but v6e according to slice_accelera",
            ),
            (
                Sources(devices=tpu("TPU v6 lite", 2, 4), claim=claim(slice_topology="2x2")),
                "topology is 2x4 according to JAX's devices but 2x2 according to slice_topology",
            ),
            (
                Sources(devices=tpu("TPU v6 lite", 2, 2), environment=environment("v6e-8", "2x4")),
                "topology is 2x2 according to JAX's devices but 2x4 according to TPU_TOPOLOGY",
            ),
            (
                Sources(devices=tpu("TPU v6 lite", 1, 1), claim=claim(slice_chips=4)),
                "chips is 1 according to JAX's devices but 4 according to slice_chips",
            ),
            (
                Sources(environment=environment("v6e-4", "2x2", "2,4,1")),
                "chips is 4 according to TPU_TOPOLOGY but 8 according to TPU_CHIPS_PER_HOST_BOUNDS",
            ),
            (
                Sources(
                    devices=tpu("TPU v6 lite", 2, 2),
                    group=find_group(
                        EngineConfig(), {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}
                    ),
                ),
                "hosts is 1 according to JAX's processes but 2 according to TPU_WORKER_HOSTNAMES",
            ),
            (
                Sources(devices=describe_devices([FakeDevice("cpu", "cpu")], 1, 0), claim=CLAIMED),
                "accelerator is cpu according to JAX's devices but v6e according to slice_accelera",
            ),
        ],
    )
    def test_two_sources_that_disagree_are_named_with_their_values(self, sources, words):
        with pytest.raises(SliceMismatchError, match=words) as refusal:
            resolve(sources)
        assert "chart" in str(refusal.value) or "node pool" in str(refusal.value)

    @pytest.mark.parametrize(("interfaces", "there"), [((ETH0,), "eth0"), ((), "none")])
    def test_a_claim_that_brought_nothing(self, interfaces, there):
        with pytest.raises(
            SliceMismatchError, match=f"the pod's interfaces are: {there}"
        ) as refusal:
            resolve(Sources(claim=claim(claim_name="netdev"), interfaces=interfaces))
        assert "resources.claims" in str(refusal.value)

    def test_chips_by_a_claim_that_the_chart_did_not_make_name_both(self):
        sources = Sources(environment=read_environment(by_claim()), claim=claim(slice_chips=4))
        with pytest.raises(SliceMismatchError, match="set sliceChips to claim") as refusal:
            resolve(sources)
        assert CLAIM_UID in str(refusal.value)
        assert "chip_claim_name" in str(refusal.value)

    def test_a_chip_claim_that_brought_no_chips_names_both(self):
        sources = Sources(
            devices=describe_devices([FakeDevice("cpu", "cpu")], 1, 0),
            claim=claim(slice_accelerator="v6e", chip_claim_name="prod-slice"),
        )
        with pytest.raises(SliceMismatchError, match="claim prod-slice must bring TPU") as refusal:
            resolve(sources)
        assert "JAX's devices are cpu" in str(refusal.value)

    @pytest.mark.parametrize("topology", ["2", "2x0", "twobytwo", "2x2x2x2"])
    def test_a_topology_that_is_none(self, topology):
        with pytest.raises(SliceMismatchError, match="must be a topology such as 2x2"):
            claim(slice_topology=topology)

    def test_bounds_that_are_none(self):
        with pytest.raises(SliceMismatchError, match="must be bounds such as 2,2,1"):
            environment("v6e-4", "2x2", "2x2")


def test_a_kind_that_is_not_known_keeps_its_name():
    devices = [SimpleNamespace(platform="tpu", device_kind="TPU v9", process_index=0)]
    devices[0].memory_stats = lambda: None
    assert describe_devices(devices, 1, 0).generation == "TPU v9"
