"""What an engine process tells of itself."""

from __future__ import annotations

import re
from types import SimpleNamespace

from server.config.engine_config import EngineConfig
from server.engine.policy.load import Load
from server.link.status import AdapterStatus
from server.metrics.metrics import Metrics
from server.processes.engine.status import Status

LOAD = Load(
    num_requests_waiting=3,
    num_sequences_running=5,
    num_unfinished=8,
    num_free_blocks=30,
    num_usable_blocks=40,
    is_queue_full=False,
)
# Stand in for an engine, its versions and its runner: two data ranks of 64 blocks.
ENGINE = SimpleNamespace(
    load=lambda: LOAD,
    last_progress=0.0,
    running_seconds=lambda: 0.0,
    queue_stall_seconds=lambda: 12.5,
    adapters=SimpleNamespace(num_slots=4, running=("sql",), waiting=()),
)
CONFIG = EngineConfig(max_num_seqs=8, max_queue_len=4)
VERSIONS = SimpleNamespace(statuses=lambda: (), config_error="")
ADAPTER = AdapterStatus(name="sql", version="1", path="/m/adapters/sql/1", state="AVAILABLE")
ADAPTERS = SimpleNamespace(statuses=lambda: (ADAPTER,), config_error="adapter x is not there")
RUNNER = SimpleNamespace(num_ranks=2, kinds=(SimpleNamespace(num_blocks=64),), block_size=16)


def metric(status, name):
    text = status.pulse().metrics.decode()
    return float(re.search(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE).group(1))


def test_until_it_serves_it_is_starting_and_idle():
    status = Status(Metrics(model="tiny", version="1", release="0"))
    assert status.pulse().state == "starting"
    assert metric(status, "antipode_load_ratio") == 0


def test_an_engine_that_begins_to_serve_during_a_pulse_is_ready_in_the_next():
    """Who reads "ready" sends requests, and finds the load and the versions."""
    status = Status(Metrics(model="tiny", version="1", release="0"))
    seconds = status.start.seconds

    def serve_meanwhile():
        status.start.seconds = seconds
        status.serve(ENGINE, VERSIONS, ADAPTERS, RUNNER, CONFIG)
        return seconds()

    status.start.seconds = serve_meanwhile
    assert status.pulse().state == "starting"
    assert status.pulse().state == "ready"
    assert status.pulse().load is not None


def test_the_load_ratio_counts_the_sequences_of_all_ranks():
    status = Status(Metrics(model="tiny", version="1", release="0"))
    status.serve(ENGINE, VERSIONS, ADAPTERS, RUNNER, CONFIG)
    assert status.pulse().state == "ready"
    assert metric(status, "antipode_load_ratio") == 8 / 16
    assert metric(status, "antipode_queue_stall_seconds") == 12
    assert status.pulse().queue_stall == 12.5
    assert metric(status, "antipode_kv_cache_usage_ratio") == 0.25
    assert 'num_blocks="128"' in status.pulse().metrics.decode()


def test_an_engine_that_drains_reports_it():
    status = Status(Metrics(model="tiny", version="1", release="0"))
    status.serve(ENGINE, VERSIONS, ADAPTERS, RUNNER, CONFIG)
    status.is_draining = True
    assert status.pulse().state == "draining"


def test_adapters_and_what_keeps_the_file_from_being_followed_are_in_the_pulse():
    status = Status(Metrics(model="tiny", version="1", release="0"))
    status.serve(ENGINE, VERSIONS, ADAPTERS, RUNNER, CONFIG)
    pulse = status.pulse()
    assert (pulse.adapters, pulse.config_error) == ((ADAPTER,), "adapter x is not there")
    assert 'max_lora="4",running_lora_adapters="sql"' in pulse.metrics.decode()
