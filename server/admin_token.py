"""The token that admin calls must bear, out of its file.

Read anew for every call, so that a new one needs no restart; and once at the start, so that no
server begins that would let nobody in.
"""

from __future__ import annotations

from pathlib import Path


class AdminTokenError(Exception):
    """The file has no token; the message names it and says what to do."""


def read_admin_token(path: Path) -> str:
    """Never empty. AdminTokenError if it would be, or the file cannot be read."""
    advice = "write the token into it, or leave --admin-token-file out to keep the admin ports shut"
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AdminTokenError(f"the admin token cannot be read: {error}; {advice}") from error
    if not token:
        raise AdminTokenError(f"the admin token's file {path} is empty; {advice}")
    return token
