"""Splits what a model thinks from what it answers, in text that comes in pieces.

White space next to the tags is dropped, because it belongs to the template. Knows no model: the
prompt says whether the model is already thinking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from server.api.tool_calls.marked_calls import overlap

ReasoningFormat = Literal["qwen3", "deepseek_r1", "mistral", "gemma4"]


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """The tags around reasoning. `assumed`: a text without the first tag begins with reasoning.

    `label` is a line that follows the first tag. `returns`: reasoning may come again in content.
    `interrupts` begins content that ends reasoning without the last tag.
    """

    start: str
    end: str
    assumed: bool = False
    label: str = ""
    returns: bool = False
    interrupts: str = ""


FORMATS: dict[ReasoningFormat, ReasoningTags] = {
    "qwen3": ReasoningTags("<think>", "</think>"),
    "deepseek_r1": ReasoningTags("<think>", "</think>", assumed=True),
    "mistral": ReasoningTags("[THINK]", "[/THINK]"),
    "gemma4": ReasoningTags(
        "<|channel>", "<channel|>", label="thought", returns=True, interrupts="<|tool_call>"
    ),
}


def format_of(template: str) -> ReasoningFormat | None:
    """The format of reasoning that a chat template shows; None if it shows none."""
    if "</think>" in template:
        return "qwen3"
    if "<|channel>" in template:
        return "gemma4"
    return "mistral" if "[THINK]" in template else None


def begins_open(tags: ReasoningTags, prompt: str) -> bool:
    """Whether an answer to this rendered prompt begins inside reasoning."""
    opened, closed = prompt.rfind(tags.start), prompt.rfind(tags.end)
    is_at_end = opened >= 0 and prompt[opened + len(tags.start) :].strip() in ("", tags.label)
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
        # What parts this reasoning from the one before.
        self._gap = ""
        self._state: Callable[[], bool] = self._at_open if is_open else self._at_start

    def feed(self, text: str) -> tuple[str, str]:
        self._held += text
        while self._state():
            pass
        return self._take()

    def finish(self) -> tuple[str, str]:
        """The rest: no more text will come."""
        if self._state in (self._in_reasoning, self._at_open):
            self._add_reasoning(self._held.rstrip())
        elif self._state != self._at_label:
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
            return self._begin(rest[len(start) :])
        if start.startswith(rest):
            return False
        self._state = self._in_content
        return True

    def _at_open(self) -> bool:
        """A model that is thinking already may still write the first tag."""
        start, rest = self._tags.start, self._held.lstrip()
        if rest != start and start.startswith(rest):
            return False
        return self._begin(rest.removeprefix(start))

    def _begin(self, rest: str) -> bool:
        self._held, self._state = rest, self._at_label
        return True

    def _at_label(self) -> bool:
        label = self._tags.label
        ends = (label + "\n", label + self._tags.end) if label else ()
        if self._held.startswith(ends):
            self._held = self._held[len(label) :]
        elif any(end.startswith(self._held) for end in ends):
            return False
        self._state = self._in_reasoning
        return True

    def _in_reasoning(self) -> bool:
        """White space at the end is held: it is dropped if the end tag follows."""
        at, found = _first(self._held, (self._tags.end, self._tags.interrupts))
        if found:
            self._add_reasoning(self._held[:at].rstrip())
            is_ended = found == self._tags.end
            self._held = self._held[at + len(found) if is_ended else at :]
            self._state = self._before_content
            return True
        certain = self._held[:at].rstrip()
        self._add_reasoning(certain)
        self._held = self._held[len(certain) :]
        return False

    def _add_reasoning(self, text: str) -> None:
        if not self._has_text:
            text = text.lstrip()
        if text and not self._has_text:
            self._has_text, text = True, self._gap + text
        self._reasoning += text

    def _before_content(self) -> bool:
        self._held = self._held.lstrip()
        self._state = self._in_content
        if not self._held:
            self._state = self._before_content
            return False
        return True

    def _in_content(self) -> bool:
        """Where reasoning may return, a last tag without a first one is dropped."""
        tags = (self._tags.start, self._tags.end) if self._tags.returns else ()
        at, found = _first(self._held, tags)
        self._content += self._held[:at]
        self._held = self._held[at + len(found) :]
        if found == self._tags.start:
            self._gap = "\n\n" if self._has_text or self._gap else ""
            self._has_text = False
            return self._begin(self._held)
        return bool(found)


def _first(text: str, words: tuple[str, ...]) -> tuple[int, str]:
    """Where the first of the words is, and which; else where one may begin at the end, and ''."""
    places = [(at, word) for word in words if word and (at := text.find(word)) >= 0]
    if places:
        return min(places)
    return len(text) - max((overlap(text, word) for word in words if word), default=0), ""
