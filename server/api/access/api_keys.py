"""The keys that callers must have, read from the lines of a file.

    # name: key, then what it may use
    search: 5f0c...e1
    batch: 8ad1...77 requests_per_minute=60 tokens_per_minute=20000

A name may have several lines with one key each: so a key is replaced without a gap. Only digests of
keys are kept, made with a secret of the process. No message repeats a key. Knows neither requests
nor time.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from server.files.watched_files import WatchedFileError

MIN_KEY_CHARS = 16
MAX_KEYS = 1000
# Of this process: no list of digests that was made elsewhere fits those in its memory.
_SECRET = secrets.token_bytes(32)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[!-~]+")
_LIMITS = ("requests_per_minute", "tokens_per_minute")
_FORM = "write lines as NAME: KEY, and behind it, if you want, " + " ".join(
    f"{name}=NUMBER" for name in _LIMITS
)


class ApiKeysError(WatchedFileError):
    """The file of keys cannot be used; the message names the line and never its key."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the keys of one name may use together; 0 is without limit."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key a call has."""

    name: str
    allowance: Allowance


class ApiKeys:
    """Callers by digests of their keys, which another process would not have."""

    def __init__(self, callers: dict[bytes, Caller]) -> None:
        self._callers = callers

    @property
    def names(self) -> frozenset[str]:
        return frozenset(caller.name for caller in self._callers.values())

    def find(self, key: str) -> Caller | None:
        """Whose key this is. It takes as long for a wrong key as for any right one."""
        given, found = _digest(key), None
        for digest, caller in self._callers.items():
            if hmac.compare_digest(digest, given):
                found = caller
        return found


def read_api_keys(path: Path) -> ApiKeys:
    """Raises ApiKeysError for a file that cannot be read, has no key, or has a wrong line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ApiKeysError(f"the API keys cannot be read: {error}") from error
    callers: dict[bytes, Caller] = {}
    allowances: dict[str, Allowance] = {}
    for number, line in _lines(text):
        place = f"line {number} of {path}"
        name, key, allowance = _parse(line, place)
        if allowances.setdefault(name, allowance) != allowance:
            raise ApiKeysError(f"{place} gives {name} other limits than a line before it")
        if callers.setdefault(_digest(key), Caller(name, allowance)).name != name:
            raise ApiKeysError(f"{place} gives {name} the key of another name")
    if not callers:
        raise ApiKeysError(f"the file of API keys {path} has no key; {_FORM}")
    if len(callers) > MAX_KEYS:
        raise ApiKeysError(f"{path} has {len(callers)} keys; at most {MAX_KEYS} are allowed")
    return ApiKeys(callers)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


def _parse(line: str, place: str) -> tuple[str, str, Allowance]:
    name, colon, rest = line.partition(":")
    key, *limits = rest.split() or [""]
    if not colon or not _NAME.fullmatch(name) or not _KEY.fullmatch(key):
        raise ApiKeysError(f"{place} is no key; {_FORM}")
    if len(key) < MIN_KEY_CHARS:
        raise ApiKeysError(
            f"the key on {place} has {len(key)} characters; it needs {MIN_KEY_CHARS} or more, such"
            " as those of `openssl rand -hex 24`"
        )
    return name, key, _allowance(limits, place)


def _allowance(limits: list[str], place: str) -> Allowance:
    found: dict[str, int] = {}
    for limit in limits:
        name, _, number = limit.partition("=")
        is_number = number.isascii() and number.isdecimal() and 0 < len(number) < 16
        if name not in _LIMITS or name in found or not is_number or not int(number):
            raise ApiKeysError(f"a limit on {place} is wrong; {_FORM}")
        found[name] = int(number)
    return Allowance(**found)


def _digest(key: str) -> bytes:
    return hmac.digest(_SECRET, key.encode(errors="surrogatepass"), "sha256")
