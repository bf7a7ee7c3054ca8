from __future__ import annotations

import subprocess
import sys
import tempfile

import pytest

from server.files.temporary_folders import clear_abandoned, temporary_folder

KILLED = """
import os, signal
from server.files.temporary_folders import temporary_folder
with temporary_folder("link") as folder:
    (folder / "engine.sock").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def own_tmp(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_folder_is_private_and_gone_afterwards():
    with temporary_folder("link") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_what_a_killed_process_left_is_cleared(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED], check=False, timeout=60)
    [left] = tmp_path.iterdir()
    assert clear_abandoned() == [left]
    assert not left.exists()


def test_a_folder_whose_owner_lives_stays():
    with temporary_folder("link") as folder:
        assert clear_abandoned() == []
        assert folder.exists()


def test_what_others_made_stays(tmp_path):
    (tmp_path / "antipode-notes").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "antipode-held-link-x").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "antipode-held-file").touch()
    assert clear_abandoned() == []
    assert len(list(tmp_path.iterdir())) == 4


def test_a_folder_that_another_start_clears_at_once_is_made_again(monkeypatch):
    mkdtemp, taken = tempfile.mkdtemp, []

    def mkdtemp_beside_a_start(**options: str) -> str:
        path = mkdtemp(**options)
        if not taken:
            taken.extend(clear_abandoned())
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp_beside_a_start)
    with temporary_folder("link") as folder:
        assert folder.exists()
    assert len(taken) == 1
