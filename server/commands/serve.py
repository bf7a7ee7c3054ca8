"""`antipode serve`: runs the server, and reports in one sentence why it cannot start."""

from __future__ import annotations

import os
import sys

from server.config.setting import ConfigError
from server.config.sources import load_config

_USAGE_ERROR = 2
_CANNOT_START = 1

DESCRIPTION = "Run the server until SIGTERM or SIGINT."


def run(flags: dict[str, str]) -> int:
    """Run the server with these flags over environment and file. Returns the exit code."""
    # Imported here: `version` and `--help` do not need the supervisor and checkpoint code.
    from server.files.admin_token_file import AdminTokenError
    from server.files.watched_files import WatchedFileError
    from server.ports import PortError
    from server.processes.supervisor import run_supervisor
    from server.slice.reported_slice import SliceMismatchError
    from server.versions.served_model import ModelNotFoundError

    try:
        return run_supervisor(load_config(flags, os.environ))
    except ConfigError as error:
        print(f"antipode serve: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except (
        AdminTokenError,
        ModelNotFoundError,
        PortError,
        SliceMismatchError,
        WatchedFileError,
    ) as error:
        print(f"antipode serve: {error}", file=sys.stderr)
        return _CANNOT_START
