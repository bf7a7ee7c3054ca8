"""The setting `allowed_image_hosts` as a set of host names. Connects to nothing."""

from __future__ import annotations

import re

from server.config.setting import ConfigError

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
# A name whose last part is a number would be an IPv4 address to some parsers.
_HOST = re.compile(rf"({_LABEL}\.)*(?=[a-z]){_LABEL}")


def read_image_hosts(setting: str) -> frozenset[str]:
    """The hosts of the setting, in small letters. ConfigError for an entry that is no host name."""
    hosts = frozenset(entry.strip().lower() for entry in setting.split(",") if entry.strip())
    for host in sorted(hosts):
        if not _HOST.fullmatch(host):
            raise ConfigError(
                f"allowed_image_hosts holds {host!r}; a host is a name such as images.example.org,"
                " without scheme, port and path"
            )
    return hosts
