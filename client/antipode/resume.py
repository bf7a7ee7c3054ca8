"""Records what a call has received, so that another server can resume it without repeated tokens.

Pure bookkeeping; knows neither transports nor time.
"""

from __future__ import annotations

from antipode.errors import ServerError
from antipode.types import Delta, Event, Resume, Start, Usage


class Progress:
    """Starts empty; the caller passes every event of every server to `take`, in order."""

    def __init__(self, n: int) -> None:
        self.start: Start | None = None
        self.usage: Usage | None = None
        self._received: list[list[int]] = [[] for _ in range(n)]
        self._unfinished = set(range(n))

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended and the token counts have arrived."""
        return not self._unfinished and self.usage is not None

    @property
    def resume(self) -> Resume | None:
        """What the next server needs to resume; None before the first event."""
        if self.start is None or not any(self._received):
            return None
        return Resume(start=self.start, received=tuple(map(tuple, self._received)))

    def take(self, event: Event) -> Delta | None:
        """Record the event; returns its new part. ServerError if it does not fit the stream."""
        if event.start is not None:
            self._take_start(event.start)
        if event.usage is not None:
            self.usage = event.usage
        delta = event.delta
        # A resumed call repeats the end of choices that had already ended.
        if delta is None or delta.index not in self._unfinished:
            return None
        self._received[delta.index] += delta.token_ids
        if delta.finish_reason is not None:
            self._unfinished.remove(delta.index)
        return delta if delta.token_ids or delta.text or delta.finish_reason else None

    def _take_start(self, start: Start) -> None:
        resume = self.resume
        if resume is None:
            # Over HTTP every chunk repeats the start, but only a server's first has the prompt.
            if self.start is None or start.prompt_token_ids:
                self.start = start
            return
        expected = resume.start.model_version, resume.start.seed
        if (start.model_version, start.seed) != expected:
            raise ServerError("the server resumed with another seed or model version than asked")
