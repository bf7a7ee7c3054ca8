from __future__ import annotations

import subprocess
import sys

import pytest

from server.plan.slice_types import SliceError, find_slice, larger_slices, slice_names


@pytest.mark.parametrize("name", slice_names())
def test_the_compiler_knows_every_slice_with_its_devices_and_hosts(name):
    known = find_slice(name)
    devices = known.find_devices()
    assert len(devices) == known.devices
    assert len({device.process_index for device in devices}) == known.hosts
    assert {device.platform for device in devices} == {"tpu"}


@pytest.mark.parametrize(
    ("name", "flops_a_cycle"),
    [("v5e:1x1", 131_072), ("v6e:1x1", 524_288), ("v5p:2x2x1", 262_144), ("v7x:1x1x1", 524_288)],
)
def test_assumed_clocks_are_peaks_over_what_the_matrix_units_do_in_a_cycle(name, flops_a_cycle):
    chip = find_slice(name).chip
    assert chip.flops / flops_a_cycle == pytest.approx(chip.clock_hz, rel=5e-3)


def test_a_slice_may_be_named_as_its_topology():
    assert find_slice("tpu7x:2x2x1") is find_slice("v7x:2x2x1")


def test_an_unknown_slice_is_refused_with_those_there_are():
    with pytest.raises(SliceError, match=r"slice 'v6e:3x3' is not known; use one of: v5e:1x1, .*"):
        find_slice("v6e:3x3")


def test_larger_slices_are_of_the_same_generation_and_in_order():
    names = [larger.name for larger in larger_slices(find_slice("v6e:2x2"))]
    assert names == ["v6e:2x4", "v6e:4x4"]


def test_the_environment_asks_for_no_tpu_and_no_network():
    environment = {"TPU_SKIP_MDS_QUERY": "0"}
    find_slice("v6e:2x4").set_environment(environment)
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert environment["TPU_ACCELERATOR_TYPE"] == "v6e-8"
    assert environment["TPU_WORKER_HOSTNAMES"] == "localhost"
    assert environment["TPU_SKIP_MDS_QUERY"] == "0"


def test_a_slice_of_the_cpu_needs_nothing_of_a_tpu():
    environment = {}
    find_slice("cpu").set_environment(environment)
    assert environment == {"JAX_PLATFORMS": "cpu"}
    assert find_slice("cpu").find_devices()[0].platform == "cpu"


def test_slices_are_known_before_jax_is_imported():
    code = "import sys, server.commands.plan; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"
