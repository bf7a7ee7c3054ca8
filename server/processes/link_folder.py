"""The folder where the processes of one server meet: the engine's socket, and shared budgets.

Says in one sentence why there cannot be one. Knows no process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from server.api.access.budgets import BUDGETS, reserve_budgets
from server.config.setting import ConfigError
from server.files.temporary_folders import temporary_folder

_SOCKET = "engine.sock"
# sockaddr_un has room for these, without the zero at the end.
_MAX_SOCKET_PATH_BYTES = 107


@contextmanager
def link_folder() -> Iterator[Path]:
    """The path of the engine's socket, in a folder that is gone afterwards. Raises ConfigError.

    What the processes write there has its room on the disk from the start.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder("link"))
            reserve_budgets(folder / BUDGETS)
        except OSError as error:
            raise ConfigError(
                f"the temporary folder cannot hold what the server's processes share: {error}; "
                "free space there, or set TMPDIR to a folder that can be written to"
            ) from error
        yield socket_path(folder)


def socket_path(folder: Path) -> Path:
    """The engine's socket; ConfigError where the temporary folder's name is too long for one."""
    path = folder / _SOCKET
    if (num_bytes := len(os.fsencode(path))) > _MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"the path of the engine's socket, {path}, has {num_bytes} bytes; a socket's path may "
            f"have {_MAX_SOCKET_PATH_BYTES}: set TMPDIR to a folder with a shorter name"
        )
    return path
