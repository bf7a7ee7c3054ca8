"""The order of an executor's start, in which the hosts of a slice wait for one another."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.checkpoint.files import LocalFiles
from server.config import EngineConfig
from server.engine.device.executor import Executor
from server.engine.policy.sequences.sequence import LoadedVersion

CHECKPOINT = Path("models/tiny/1")


@pytest.fixture
def steps(monkeypatch):
    """What was done, in its order; nothing is compiled or run."""
    steps = []
    monkeypatch.setattr(Executor, "_compile", lambda *_: steps.append("compile"))
    monkeypatch.setattr(Executor, "_run_once", lambda *_: steps.append("run"))
    return steps


def test_no_host_runs_a_program_before_all_have_compiled(steps):
    def agree(chip_bytes):
        steps.append("wait for all hosts")
        return chip_bytes

    config = EngineConfig(
        model=str(CHECKPOINT), num_blocks=16, tensor_parallel_size=1, data_parallel_size=1
    )
    files = LocalFiles(CHECKPOINT)
    Executor.build(files, config, lambda *_: None, LoadedVersion(), agree)
    assert steps == ["wait for all hosts", "compile", "wait for all hosts", "run"]
