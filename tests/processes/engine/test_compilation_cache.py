from __future__ import annotations

import os

import pytest

from server.config.engine_config import EngineConfig
from server.processes.engine.build import prepare_jax
from server.processes.engine.compilation_cache import private_folder


def test_a_folder_that_is_made_is_private(tmp_path):
    folder = private_folder(tmp_path / "cache" / "xla")
    assert folder == tmp_path / "cache" / "xla"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_an_own_folder_that_others_only_read_is_used(tmp_path):
    tmp_path.chmod(0o755)
    assert private_folder(tmp_path) == tmp_path


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o2775])
def test_in_a_folder_that_others_write_a_private_one_is_made(tmp_path, mode):
    tmp_path.chmod(mode)
    folder = private_folder(tmp_path)
    assert folder == tmp_path / f"private-{os.geteuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder(tmp_path) == folder


def test_a_private_folder_that_others_write_too_is_refused(tmp_path, caplog):
    tmp_path.chmod(0o777)
    (tmp_path / f"private-{os.geteuid()}").mkdir()
    (tmp_path / f"private-{os.geteuid()}").chmod(0o777)
    assert private_folder(tmp_path) is None
    assert "name a folder of the server's own" in caplog.text


def test_a_link_in_place_of_the_private_folder_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"private-{os.geteuid()}").symlink_to(tmp_path / "elsewhere")
    assert private_folder(tmp_path) is None


def test_a_folder_that_cannot_be_made_is_reported(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert private_folder(tmp_path / "file" / "cache") is None
    assert "cannot be used" in caplog.text


def test_the_compiler_gets_the_private_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    tmp_path.chmod(0o777)
    prepare_jax(EngineConfig(compile_cache_dir=str(tmp_path)), lambda: None)
    found = os.environ["JAX_COMPILATION_CACHE_DIR"]
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert found == str(tmp_path / f"private-{os.geteuid()}")
