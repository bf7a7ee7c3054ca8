from __future__ import annotations

import resource

import pytest

from server.engine import platforms
from server.engine.platforms import choose_platform, unlock_memory


@pytest.fixture(autouse=True)
def library(monkeypatch):
    monkeypatch.setattr(platforms, "find_spec", lambda name: object())


def chosen(dev, *files, **environment):
    for file in files:
        (dev / file).parent.mkdir(parents=True, exist_ok=True)
        (dev / file).touch()
    choose_platform(environment, dev)
    return environment.get("JAX_PLATFORMS")


def test_without_chips_the_library_is_not_asked(tmp_path):
    assert chosen(tmp_path, "null", "vfio/vfio") == "cpu"


@pytest.mark.parametrize("file", ["accel0", "vfio/3"])
def test_with_chips_jax_decides(tmp_path, file):
    assert chosen(tmp_path, file) is None


def test_a_gpu_beside_the_library_is_used(tmp_path):
    assert chosen(tmp_path, "nvidia0") == "cuda,cpu"


def test_the_operator_has_the_last_word(tmp_path):
    assert chosen(tmp_path, JAX_PLATFORMS="tpu") == "tpu"


def test_without_the_library_there_is_nothing_to_keep_from(tmp_path, monkeypatch):
    monkeypatch.setattr(platforms, "find_spec", lambda name: None)
    assert chosen(tmp_path) is None


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


class TestLockedMemory:
    def test_beside_chips_it_has_no_limit(self, tmp_path, limits):
        (tmp_path / "accel0").touch()
        fake = limits(may_raise=True)
        unlock_memory(tmp_path)
        assert fake.now == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    def test_who_may_not_raise_it_takes_what_there_is_and_says_so(self, tmp_path, limits, caplog):
        (tmp_path / "accel0").touch()
        fake = limits(may_raise=False)
        unlock_memory(tmp_path)
        assert fake.now == (1024, 1024)
        assert "SYS_RESOURCE" in caplog.text

    def test_without_chips_it_stays(self, tmp_path, limits):
        fake = limits(may_raise=True)
        unlock_memory(tmp_path)
        assert fake.now == (64, 1024)
