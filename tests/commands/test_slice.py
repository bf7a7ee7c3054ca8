"""`antipode slice` as an operator runs it, on this machine's CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from server.metrics.metrics import Metrics
from server.metrics.snapshot import Snapshot
from server.slice.interfaces import Interface
from server.slice.reported_slice import Devices, SliceClaim
from server.slice.resolve import Sources, resolve


def run(*flags, **environment):
    inherited = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "server", "slice", *flags],
        capture_output=True,
        text=True,
        check=False,
        env=inherited | {"JAX_PLATFORMS": "cpu"} | environment,
    )


@pytest.fixture(scope="module")
def told():
    run_ = run("--model=tiny", "--json", XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert run_.returncode == 0, run_.stderr
    return json.loads(run_.stdout)


def test_the_fields_of_a_slice_are_stable(told):
    for name in ("generation", "topology", "chips", "hosts", "host_index", "hostnames"):
        assert name in told
    assert told["hbm_bytes_per_chip"] is None
    assert {"name", "address", "mtu"} <= set(told["interfaces"][0]) if told["interfaces"] else True


def test_the_mesh_of_the_model_on_the_slice_is_reported(told):
    assert (told["generation"], told["chips"]) == ("cpu", 4)
    assert told["mesh"] == {"data": 4, "tensor": 1, "idle": 0}


def test_the_settings_decide_how_it_would_lie():
    run_ = run(
        "--model=tiny",
        "--json",
        "--tensor-parallel-size=2",
        XLA_FLAGS="--xla_force_host_platform_device_count=5",
    )
    assert json.loads(run_.stdout)["mesh"] == {"data": 2, "tensor": 2, "idle": 1}


def test_a_split_that_the_server_would_refuse_is_code_1_beside_what_there_is():
    refused = run("--model=tiny", "--json", "--tensor-parallel-size=3")
    assert refused.returncode == 1
    assert "no mesh" in refused.stderr
    assert json.loads(refused.stdout)["mesh"] is None


def test_what_is_not_what_was_asked_for_is_one_sentence_and_code_1():
    refused = run("--model=tiny", "--slice-accelerator=v6e")
    assert refused.returncode == 1
    assert refused.stderr.startswith("antipode slice: accelerator is cpu according to JAX's")
    assert len(refused.stderr.splitlines()) == 1


def test_the_metrics_tell_the_slice_and_its_interfaces():
    found = resolve(
        Sources(
            devices=Devices(generation="v6e", count=4, chips=4, topology="2x2"),
            claim=SliceClaim(name="netdev"),
            interfaces=(Interface(name="eth1", address="10.9.0.1", mtu=8896),),
        )
    )
    metrics = Metrics(model="tiny", version="1", release="0")
    text = metrics.render(Snapshot(slice=found)).decode()
    assert 'generation="v6e"' in text
    assert 'antipode_network_interface_info{address="10.9.0.1",default="false"' in text
    unknown = metrics.render(Snapshot()).decode()
    assert 'antipode_slice_info{chips="",claim="",generation=""' in unknown
