"""The order of an executor's start: what it does meanwhile, and where hosts wait for each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.checkpoint.checkpoint import CheckpointError
from models.checkpoint.files import LocalFiles
from server.config.engine_config import EngineConfig
from server.engine.device import executor
from server.engine.device.executor import Executor
from server.engine.device.weight_sets import WeightSets
from server.engine.policy.sequences.sequence import LoadedVersion

CHECKPOINT = Path("models/tiny/1")


@pytest.fixture
def steps(monkeypatch):
    """What was done, in its order; nothing is compiled or run."""
    steps = []

    class FakeCompiling:
        def __init__(self, *_):
            steps.append("begin to compile")

        def wait(self, progress):
            steps.append("compiled")

        def cancel(self):
            steps.append("cancel")

    monkeypatch.setattr(executor, "Compiling", FakeCompiling)
    monkeypatch.setattr(Executor, "_take", lambda *_: None)
    monkeypatch.setattr(Executor, "_run_once", lambda *_: steps.append("run"))
    return steps


CONFIG = EngineConfig(
    model=str(CHECKPOINT), num_blocks=16, tensor_parallel_size=1, data_parallel_size=1
)


def test_programs_are_compiled_while_weights_are_read(steps):
    def on_progress(detail, fraction):
        if fraction == 1:
            steps.append(detail)

    Executor.build(
        LocalFiles(CHECKPOINT), CONFIG, on_progress, LoadedVersion(), on_phase=steps.append
    )
    assert steps == [
        *("weights", "begin to compile", "loading weights"),
        *("compile", "compiled", "hosts", "warm_up", "run"),
    ]


def test_weights_that_cannot_be_read_end_the_compilation(steps, monkeypatch):
    def fail(*_):
        raise CheckpointError("cut short")

    monkeypatch.setattr(WeightSets, "load", fail)
    with pytest.raises(CheckpointError):
        Executor.build(LocalFiles(CHECKPOINT), CONFIG, lambda *_: None, LoadedVersion())
    assert steps == ["begin to compile", "cancel"]


def test_no_host_runs_a_program_before_all_have_compiled(steps):
    def agree(chip_bytes):
        steps.append("wait for all hosts")
        return chip_bytes

    Executor.build(LocalFiles(CHECKPOINT), CONFIG, lambda *_: None, LoadedVersion(), agree)
    assert steps == [
        *("wait for all hosts", "begin to compile", "compiled", "wait for all hosts", "run")
    ]
