"""The limit of locked memory, raised for the TPU's driver."""

from __future__ import annotations

import resource

import pytest

from server.config.engine_config import EngineConfig
from server.engine.device.locked_memory import raise_locked_memory
from server.processes.engine import build


class FakeLimits:
    """Stands in for the kernel's limit of locked memory: once lowered, a test cannot raise it."""

    def __init__(self, soft: int, hard: int, *, may_raise: bool) -> None:
        self.now, self._may_raise = (soft, hard), may_raise

    def getrlimit(self, _: int) -> tuple[int, int]:
        return self.now

    def setrlimit(self, _: int, limits: tuple[int, int]) -> None:
        if limits[1] == resource.RLIM_INFINITY and not self._may_raise:
            raise ValueError("not allowed to raise maximum limit")
        self.now = limits


@pytest.fixture
def limits(monkeypatch):
    def install(*, may_raise):
        fake = FakeLimits(64, 1024, may_raise=may_raise)
        monkeypatch.setattr(resource, "getrlimit", fake.getrlimit)
        monkeypatch.setattr(resource, "setrlimit", fake.setrlimit)
        return fake

    return install


def test_a_process_that_may_raise_the_limit_has_none(limits):
    fake = limits(may_raise=True)
    raise_locked_memory()
    assert fake.now == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def test_a_process_that_may_not_raise_the_limit_keeps_it_and_logs_so(limits, caplog):
    fake = limits(may_raise=False)
    raise_locked_memory()
    assert fake.now == (1024, 1024)
    assert "SYS_RESOURCE" in caplog.text


@pytest.mark.parametrize("has_chips", [True, False])
def test_the_limit_is_raised_only_where_there_are_chips(limits, monkeypatch, has_chips):
    fake = limits(may_raise=True)
    monkeypatch.setattr(build, "has_tpu", lambda: has_chips)
    monkeypatch.setattr(build, "choose_platform", lambda _: None)
    build.prepare_jax(EngineConfig(compile_cache_dir=""), lambda: None)
    assert (fake.now == (64, 1024)) == (not has_chips)
