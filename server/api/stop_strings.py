"""Finds stop strings in text that arrives in pieces, however it is cut.

What may still become a stop string is held back until it is decided. This module knows no tokens.
"""

from __future__ import annotations


class StopMatcher:
    """Passes text through until one of `stop` occurs in it.

    The occurrence that ends first wins, the longest where several end together, so the outcome does
    not depend on how the text was cut into pieces. `matched` is the string found, None before that;
    then the text returned ends before it, or after it if `include`.
    """

    __slots__ = ("_held", "_include", "_stop", "matched")

    def __init__(self, stop: tuple[str, ...], *, include: bool = False) -> None:
        self._stop = stop
        self._include = include
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Take the next piece; return what is now certain to belong to the output."""
        if not self._stop:
            return text
        self._held += text
        if found := self._first_match():
            end, start, self.matched = found
            released, self._held = self._held[: end if self._include else start], ""
            return released
        num_certain = len(self._held) - max(_overlap(self._held, stop) for stop in self._stop)
        released, self._held = self._held[:num_certain], self._held[num_certain:]
        return released

    def flush(self) -> str:
        """Return what is held: no more text will come to complete a stop string."""
        released, self._held = self._held, ""
        return released

    def _first_match(self) -> tuple[int, int, str] | None:
        found = [
            (start + len(stop), start, stop)
            for stop in self._stop
            if (start := self._held.find(stop)) >= 0
        ]
        return min(found, default=None)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, shorter than `stop`."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0:
        if stop.startswith(text[start:]):
            return len(text) - start
        start = text.find(stop[0], start + 1)
    return 0
