"""What the main process decides before it starts another."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.config.setting import ConfigError
from server.processes.supervisor import _socket_path


def test_the_engines_socket_lies_in_the_temporary_folder():
    assert _socket_path(Path("/tmp/link")) == Path("/tmp/link/engine.sock")


def test_a_temporary_folder_whose_name_is_too_long_for_a_socket_is_refused():
    with pytest.raises(ConfigError, match=r"has 114 bytes.*set TMPDIR"):
        _socket_path(Path("/" + "a" * 101))
