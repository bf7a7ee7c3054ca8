"""Reads the secret by which the hosts of a slice prove themselves to each other.

Hosts of one machine, which meet on loopback, need none. All other hosts refuse to start without
one. Knows neither sockets nor what is done with the secret.
"""

from __future__ import annotations

from pathlib import Path

from server.config.engine_config import EngineConfig
from server.slice.host_group import Group
from server.slice.reported_slice import SliceMismatchError

# The least length of a secret: 16 random bytes give 22 characters in base64.
_MIN_BYTES = 16
# The most that is read: a path given by mistake may name a huge file.
_MAX_BYTES = 4096
_ADVICE = (
    "write at least 16 random characters into it, the same on all hosts, such as the output of "
    "`head -c 32 /dev/urandom | base64`"
)


def read_group_secret(config: EngineConfig, group: Group) -> bytes:
    """The secret without white space around it; b"" where the hosts meet on loopback without one.

    Raises SliceMismatchError where the group needs a secret and the settings name no usable one.
    """
    if not group.is_several:
        return b""
    if not config.group_secret_file:
        if group.listening_address:
            return b""
        raise SliceMismatchError(
            f"{group.source} names hosts that meet at {group.hostnames[0]}, outside of this "
            "machine, but group_secret_file is not set, so anyone who reaches the port could join: "
            f"set group_secret_file to a file on every host and {_ADVICE}"
        )
    return _read(Path(config.group_secret_file))


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise SliceMismatchError(f"group_secret_file {path} is not a file: {_ADVICE}")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SliceMismatchError(
            f"group_secret_file {path} cannot be read: {error.strerror or error}; let the server's "
            "user read it"
        ) from error
    secret = content.strip()
    if len(content) > _MAX_BYTES or len(secret) < _MIN_BYTES:
        found = "more than 4096" if len(content) > _MAX_BYTES else str(len(secret))
        raise SliceMismatchError(f"group_secret_file {path} has {found} bytes: {_ADVICE}")
    return secret
