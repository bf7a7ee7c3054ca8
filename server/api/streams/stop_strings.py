"""Finds stop strings in text that arrives in pieces, wherever the pieces are cut.

Text that may still become a stop string is held back until that is decided. Knows no tokens.
"""

from __future__ import annotations


class StopMatcher:
    """Passes text through until one of `stop` occurs in it.

    The occurrence that ends first wins; if several end at the same place, the longest wins. So the
    result does not depend on the cuts. `matched` is the stop string that was found, or None. The
    returned text ends before the stop string, or after it with `include`. An empty stop string
    stops nothing.
    """

    __slots__ = ("_held", "_include", "_stop", "matched")

    def __init__(self, stop: tuple[str, ...], *, include: bool = False) -> None:
        self._stop = tuple(filter(None, stop))
        self._include = include
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Take the next piece of text. Returns the text that now surely belongs to the output."""
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
        """Return the text that was held back: no more text will complete a stop string."""
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
    """Length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0:
        if stop.startswith(text[start:]):
            return len(text) - start
        start = text.find(stop[0], start + 1)
    return 0
