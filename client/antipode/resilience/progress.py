"""Records what a call has received, so that another server can resume it without repeated tokens.

Pure bookkeeping: it refuses what does not fit the stream before it records anything of it. Knows
neither transports nor time.
"""

from __future__ import annotations

from antipode.errors import ServerError
from antipode.limits import MAX_CHOICE_CHARACTERS, MAX_CHOICE_TOKENS
from antipode.types import Delta, Event, Resume, ResumeExactness, Start, Usage


class Progress:
    """Starts empty; the caller passes every event of every server to `take`, in order.

    `max_tokens` is the most tokens that a choice may have.
    """

    def __init__(self, n: int, max_tokens: int = MAX_CHOICE_TOKENS) -> None:
        self.start: Start | None = None
        self.usage: Usage | None = None
        self._max_tokens = max_tokens
        self._received: list[list[int]] = [[] for _ in range(n)]
        self._num_characters = [0] * n
        self._num_calls = [0] * n
        self._unfinished = set(range(n))
        self._is_exact = True

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended and the token counts have arrived."""
        return self.has_ended and self.usage is not None

    @property
    def has_ended(self) -> bool:
        """Whether every choice has ended. Some servers send no token counts."""
        return not self._unfinished

    @property
    def resume(self) -> Resume | None:
        """What the next server needs to resume; None before the first token."""
        if self.start is None or not any(self._received):
            return None
        return Resume(start=self.start, received=tuple(map(tuple, self._received)))

    @property
    def resume_exactness(self) -> ResumeExactness:
        """`exact` if every server whose tokens are here promises it."""
        return "exact" if self.start is not None and self._is_exact else "consistent"

    def take(self, event: Event) -> Delta | None:
        """Record the event; returns its new part. ServerError if it does not fit the stream."""
        if event.delta is not None:
            self._check(event.delta)
        if event.start is not None:
            self._take_start(event.start)
        delta = self._take_delta(event.delta) if event.delta is not None else None
        if event.usage is not None:
            self.usage = event.usage
        return delta

    def _check(self, delta: Delta) -> None:
        if not 0 <= delta.index < len(self._received):
            raise ServerError(
                f"the server sent choice {delta.index}; the request has n={len(self._received)}"
            )
        # A resumed call repeats the end of a choice that had already ended, but no token.
        num_characters = delta.num_characters
        if delta.index not in self._unfinished and (delta.token_ids or num_characters):
            raise ServerError(f"the server sent more of choice {delta.index} after its end")
        num_tokens = len(self._received[delta.index]) + len(delta.token_ids)
        if num_tokens > self._max_tokens:
            raise ServerError(f"the server sent over {self._max_tokens} tokens of one choice")
        if num_characters and not num_tokens:
            raise ServerError("the server sent text without tokens, which cannot be resumed")
        if self._num_characters[delta.index] + num_characters > MAX_CHOICE_CHARACTERS:
            raise ServerError(f"the server sent over {MAX_CHOICE_CHARACTERS} characters of text")
        self._check_calls(delta)

    def _check_calls(self, delta: Delta) -> None:
        """A call has its name first, and calls begin in their order."""
        num_calls = self._num_calls[delta.index]
        for call in delta.calls:
            is_new = bool(call.name)
            num_calls += is_new
            if call.index != num_calls - 1 if is_new else not 0 <= call.index < num_calls:
                raise ServerError(
                    f"the server sent a part of call {call.index}, which has no name or comes out"
                    " of order"
                )

    def _take_start(self, start: Start) -> None:
        resume = self.resume
        if resume is None:
            # Over HTTP every chunk repeats the start, but only a server's first has the prompt.
            if self.start is None or start.prompt_token_ids:
                self.start = start
                self._is_exact = start.resume_exactness == "exact"
            return
        expected = resume.start.model_version, resume.start.seed
        if (start.model_version, start.seed) != expected:
            raise ServerError("the server resumed with another seed or model version than asked")
        self._is_exact &= start.resume_exactness == "exact"

    def _take_delta(self, delta: Delta) -> Delta | None:
        if delta.token_ids and (self.start is None or not self.start.prompt_token_ids):
            raise ServerError("the server sent tokens before the prompt's, so none can be resumed")
        if delta.index not in self._unfinished:
            return None
        self._received[delta.index] += delta.token_ids
        self._num_characters[delta.index] += delta.num_characters
        self._num_calls[delta.index] += sum(bool(call.name) for call in delta.calls)
        if delta.finish_reason is not None:
            self._unfinished.remove(delta.index)
        says_something = delta.token_ids or delta.num_characters or delta.finish_reason
        return delta if says_something else None
