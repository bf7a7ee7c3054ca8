"""What a start says of the checkpoint that it serves."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from server.config.engine_config import EngineConfig
from server.engine.device.executor import Executor
from server.processes.engine import build
from server.processes.engine.compilation_cache import set_compilation_cache
from server.slice.host_group import GroupError


@pytest.mark.parametrize(("digest", "is_told"), [("", True), ("abc", False)])
def test_weights_that_nothing_verifies_are_told(monkeypatch, caplog, digest, is_told):
    executor = SimpleNamespace(
        weights_digest=digest,
        blueprint=None,
        weights=None,
        adapters=None,
        tokenizer_sums={},
    )
    monkeypatch.setattr(Executor, "build", lambda *_: executor)
    monkeypatch.setattr(build, "prepare_jax", lambda *_: None)
    monkeypatch.setattr(build, "ask_jax", lambda: None)
    monkeypatch.setattr(build, "find_slice", lambda *_: None)
    listener = SimpleNamespace(
        on_phase=lambda _: None,
        on_progress=lambda *_: None,
        on_compilation=lambda: None,
        on_cache_hit=lambda: None,
        on_slice=lambda _: None,
    )
    build.build_model_runner(EngineConfig(model="tiny"), listener)
    assert ("tiny has no antipode.json" in caplog.text) == is_told


def test_errors_that_explain_themselves_leave_no_traceback_and_bugs_do():
    explained = [ValueError("cut short"), OSError("no such file"), GroupError("host 1 is gone")]
    assert [build.unexplained(error) for error in explained] == [None] * 3
    bug = KeyError("q_proj")
    assert build.unexplained(bug) is bug


def test_jaxs_own_variable_for_the_cache_is_honoured_only_for_a_private_folder(
    monkeypatch, tmp_path
):
    shared = tmp_path / "shared"
    (shared / f"private-{os.geteuid()}").mkdir(parents=True)
    shared.chmod(0o777)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(shared))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    set_compilation_cache(EngineConfig(model="tiny"))
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(shared / f"private-{os.geteuid()}")
