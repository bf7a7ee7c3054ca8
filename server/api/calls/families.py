"""The readers of calls by name, and the family that a chat template belongs to."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

from server.api.calls.call_log import CallReader
from server.api.calls.fenced_calls import FencedCalls
from server.api.calls.marked_calls import HERMES, LLAMA3_JSON, MISTRAL, MarkedCalls

Family = Literal["hermes", "llama3_json", "mistral", "gemma3", "pythonic"]

_READERS: dict[Family, Callable[[Collection[str]], CallReader]] = {
    "hermes": lambda names: MarkedCalls(HERMES, names),
    "llama3_json": lambda names: MarkedCalls(LLAMA3_JSON, names),
    "mistral": lambda names: MarkedCalls(MISTRAL, names),
    "gemma3": lambda names: FencedCalls(names, fenced=True),
    "pythonic": lambda names: FencedCalls(names, fenced=False),
}
MARKERS: dict[Family, tuple[str, ...]] = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama3_json": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
    "gemma3": (),
    "pythonic": (),
}
# What only templates of a family hold, the most telling first.
_SIGNS: tuple[tuple[str, Family], ...] = (
    ("[TOOL_CALLS]", "mistral"),
    ("<tool_call>", "hermes"),
    ("tool_code", "gemma3"),
    ("func_name1(", "pythonic"),
    ("<|python_tag|>", "llama3_json"),
    ("<|start_header_id|>", "llama3_json"),
)


def call_reader(family: Family, names: Collection[str]) -> CallReader:
    """A reader for one choice. `names` are the tools that were offered."""
    return _READERS[family](names)


def family_of(template: str) -> Family | None:
    """The family whose calls a chat template describes; None if none is known."""
    return next((family for sign, family in _SIGNS if sign in template), None)
