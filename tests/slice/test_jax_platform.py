from __future__ import annotations

import pytest

from server.slice import jax_platform as platforms
from server.slice.jax_platform import choose_platform


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
