"""The folder of the engine's socket, and why there may be none."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from server.config.setting import ConfigError
from server.processes.link_folder import link_folder, socket_path


@pytest.fixture(autouse=True)
def temporary(monkeypatch):
    """Where temporary folders are made. Its name is shorter than pytest's: a socket lies in it."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
        monkeypatch.undo()


def test_the_engines_socket_lies_in_the_temporary_folder():
    assert socket_path(Path("/tmp/link")) == Path("/tmp/link/engine.sock")


def test_a_temporary_folder_whose_name_is_too_long_for_a_socket_is_refused():
    with pytest.raises(ConfigError, match=r"has 114 bytes.*set TMPDIR"):
        socket_path(Path("/" + "a" * 101))


def test_the_budgets_have_their_room_before_another_process_starts(temporary):
    with link_folder() as link:
        assert link.with_name("budgets").stat().st_size > 0
    assert list(temporary.iterdir()) == []


def test_a_full_disk_is_told_in_a_sentence(temporary, monkeypatch):
    def is_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", is_full)
    with pytest.raises(ConfigError, match=r"No space left on device; free space there, or set"):
        link_folder().__enter__()
    assert list(temporary.iterdir()) == []


def test_no_temporary_folder_at_all_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(ConfigError, match=r"No such file.*set TMPDIR"):
        link_folder().__enter__()
