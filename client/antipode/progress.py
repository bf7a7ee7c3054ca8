"""What a call has received so far: enough to go on elsewhere, and to pass each token on once.

Pure bookkeeping; knows neither transports nor time.
"""

from __future__ import annotations

from antipode.errors import ServerError
from antipode.types import Delta, Event, Resume, Start, Usage


class Progress:
    """Starts empty; `take` every event in order, from however many servers they come."""

    def __init__(self, n: int) -> None:
        self.start: Start | None = None
        self.usage: Usage | None = None
        self._received: list[list[int]] = [[] for _ in range(n)]
        self._unfinished = set(range(n))

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended and the counts have come."""
        return not self._unfinished and self.usage is not None

    @property
    def resume(self) -> Resume | None:
        """What the next server needs to go on; None as long as there is nothing to go on from."""
        if self.start is None or not any(self._received):
            return None
        return Resume(start=self.start, received=tuple(map(tuple, self._received)))

    def take(self, event: Event) -> Delta | None:
        """Note the event; what of it the caller has not seen. ServerError if it does not fit."""
        if event.start is not None:
            self._take_start(event.start)
        if event.usage is not None:
            self.usage = event.usage
        delta = event.delta
        # A resumed call tells the end of choices again that had ended.
        if delta is None or delta.index not in self._unfinished:
            return None
        self._received[delta.index] += delta.token_ids
        if delta.finish_reason is not None:
            self._unfinished.remove(delta.index)
        return delta if delta.token_ids or delta.text or delta.finish_reason else None

    def _take_start(self, start: Start) -> None:
        resume = self.resume
        if resume is None:
            # Over HTTP every chunk tells how it started, but only a server's first has the prompt.
            if self.start is None or start.prompt_token_ids:
                self.start = start
            return
        expected = resume.start.model_version, resume.start.seed
        if (start.model_version, start.seed) != expected:
            raise ServerError("the server went on with another seed or model version than asked")
