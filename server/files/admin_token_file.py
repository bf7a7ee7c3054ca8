"""Reads the token that admin calls must bear from its file.

The token is read for every call, so that a new token needs no restart. It is also read once at
start-up, so that a server without a token does not start.
"""

from __future__ import annotations

from pathlib import Path


class AdminTokenError(Exception):
    """The file has no token; the message names the file and says what to do."""


def read_admin_token(path: Path) -> str:
    """The token; never empty. Raises AdminTokenError for an empty or unreadable file."""
    advice = "write the token into it, or leave --admin-token-file out to keep the admin ports shut"
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AdminTokenError(f"the admin token cannot be read: {error}; {advice}") from error
    if not token:
        raise AdminTokenError(f"the admin token's file {path} is empty; {advice}")
    return token
