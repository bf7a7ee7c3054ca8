"""The readers of calls by name, and the family that a chat template belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from server.api.tool_calls.call_log import CallReader
from server.api.tool_calls.fenced_calls import FencedCalls
from server.api.tool_calls.gemma4_object import QUOTE
from server.api.tool_calls.marked_calls import (
    GEMMA4,
    HERMES,
    LLAMA3_JSON,
    MISTRAL,
    MarkedCalls,
)
from server.api.tool_calls.tagged_calls import Schemas, TaggedCalls

Family = Literal["hermes", "llama3_json", "mistral", "gemma3", "gemma4", "pythonic", "qwen3_coder"]

_READERS: dict[Family, Callable[[Schemas], CallReader]] = {
    "hermes": lambda tools: MarkedCalls(HERMES, tools),
    "llama3_json": lambda tools: MarkedCalls(LLAMA3_JSON, tools),
    "mistral": lambda tools: MarkedCalls(MISTRAL, tools),
    "gemma3": lambda tools: FencedCalls(tools, fenced=True),
    "gemma4": lambda tools: MarkedCalls(GEMMA4, tools),
    "pythonic": lambda tools: FencedCalls(tools, fenced=False),
    "qwen3_coder": TaggedCalls,
}
MARKERS: dict[Family, tuple[str, ...]] = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama3_json": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
    "gemma3": (),
    "gemma4": ("<|tool_call>", "<tool_call|>", QUOTE, "<|tool_response>"),
    "pythonic": (),
    "qwen3_coder": ("<tool_call>", "</tool_call>"),
}
# What only templates of a family hold, the most telling first.
_SIGNS: tuple[tuple[str, Family], ...] = (
    ("<|tool_call>", "gemma4"),
    ("[TOOL_CALLS]", "mistral"),
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ("tool_code", "gemma3"),
    ("func_name1(", "pythonic"),
    ("<|python_tag|>", "llama3_json"),
    ("<|start_header_id|>", "llama3_json"),
)


def call_reader(family: Family, tools: Schemas) -> CallReader:
    """A reader for one choice. `tools` has the schemas of the tools offered, by name."""
    return _READERS[family](tools)


def family_of(template: str) -> Family | None:
    """The family whose calls a chat template describes; None if none is known."""
    return next((family for sign, family in _SIGNS if sign in template), None)
