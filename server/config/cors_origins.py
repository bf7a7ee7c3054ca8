"""The setting `cors_origins` as a list of web origins. Knows nothing of HTTP."""

from __future__ import annotations

import re

from server.config.setting import ConfigError

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s,]+|null", re.IGNORECASE)


def read_origins(setting: str) -> list[str]:
    """The origins of the setting `cors_origins`. ConfigError for what no browser would send."""
    origins = [origin.strip().rstrip("/") for origin in setting.split(",") if origin.strip()]
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"cors_origins holds {origin!r}; an origin is scheme://host or scheme://host:port,"
                " or * for all"
            )
    return origins
