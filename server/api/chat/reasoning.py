"""Splits what a model thinks from what it answers, in text that comes in pieces.

White space next to the tags is dropped, because it belongs to the template. Knows no model: the
prompt says whether the model is already thinking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from server.api.tool_calls.marked_calls import overlap

ReasoningFormat = Literal["qwen3", "deepseek_r1", "mistral"]


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """The tags around reasoning. `assumed`: a text without the first tag begins with reasoning."""

    start: str
    end: str
    assumed: bool = False


FORMATS: dict[ReasoningFormat, ReasoningTags] = {
    "qwen3": ReasoningTags("<think>", "</think>"),
    "deepseek_r1": ReasoningTags("<think>", "</think>", assumed=True),
    "mistral": ReasoningTags("[THINK]", "[/THINK]"),
}


def format_of(template: str) -> ReasoningFormat | None:
    """The format of reasoning that a chat template shows; None if it shows none."""
    if "</think>" in template:
        return "qwen3"
    return "mistral" if "[THINK]" in template else None


def begins_open(tags: ReasoningTags, prompt: str) -> bool:
    """Whether an answer to this rendered prompt begins inside reasoning."""
    opened, closed = prompt.rfind(tags.start), prompt.rfind(tags.end)
    is_at_end = not prompt[opened + len(tags.start) :].strip() if opened >= 0 else False
    if is_at_end:
        return True
    is_closed = closed >= 0 and not prompt[closed + len(tags.end) :].strip()
    return tags.assumed and not is_closed


class ReasoningSplitter:
    """Gives `(reasoning, content)` for each piece of text."""

    def __init__(self, tags: ReasoningTags, *, is_open: bool) -> None:
        self._tags = tags
        self._held = ""
        self._content = ""
        self._reasoning = ""
        self._has_text = False
        self._state: Callable[[], bool] = self._at_open if is_open else self._at_start

    def feed(self, text: str) -> tuple[str, str]:
        self._held += text
        while self._state():
            pass
        return self._take()

    def finish(self) -> tuple[str, str]:
        """The rest: no more text will come."""
        if self._state in (self._in_reasoning, self._at_open):
            self._reasoning += self._held.rstrip() if self._has_text else self._held.strip()
        else:
            self._content += self._held
        self._held = ""
        return self._take()

    def _take(self) -> tuple[str, str]:
        taken = (self._reasoning, self._content)
        self._reasoning, self._content = "", ""
        return taken

    def _at_start(self) -> bool:
        start, rest = self._tags.start, self._held.lstrip()
        if rest.startswith(start):
            self._held, self._state = rest[len(start) :], self._in_reasoning
            return True
        if start.startswith(rest):
            return False
        self._state = self._in_content
        return True

    def _at_open(self) -> bool:
        """A model that is thinking already may still write the first tag."""
        start, rest = self._tags.start, self._held.lstrip()
        if rest != start and start.startswith(rest):
            return False
        self._held, self._state = rest.removeprefix(start), self._in_reasoning
        return True

    def _in_reasoning(self) -> bool:
        """White space at the end is held: it is dropped if the end tag follows."""
        before, found, after = self._held.partition(self._tags.end)
        if found:
            self._add_reasoning(before.rstrip())
            self._held, self._state = after, self._before_content
            return True
        num_held = overlap(self._held, self._tags.end)
        certain = self._held[: len(self._held) - num_held].rstrip()
        self._add_reasoning(certain)
        self._held = self._held[len(certain) :]
        return False

    def _add_reasoning(self, text: str) -> None:
        if not self._has_text:
            text = text.lstrip()
        self._has_text = self._has_text or bool(text)
        self._reasoning += text

    def _before_content(self) -> bool:
        self._held = self._held.lstrip()
        self._state = self._in_content
        if not self._held:
            self._state = self._before_content
            return False
        return True

    def _in_content(self) -> bool:
        self._content += self._held
        self._held = ""
        return False
