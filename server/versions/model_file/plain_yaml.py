"""Reads YAML as plain data: mappings, lists and text as it is written, within bounds.

Anchors, aliases, merges, tags and duplicate keys are refused, so a small text cannot become large
data or run code. A scalar keeps its text: 010 is no octal number and 2026-01-01 no date. Knows
nothing of what the data mean.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml

MAX_DEPTH = 8
MAX_NODES = 1000
_NULL = frozenset({"", "~", "null", "Null", "NULL"})

type Plain = str | list[Plain] | dict[str, Plain] | None


class PlainYamlError(ValueError):
    """A text that is not plain YAML; the message says why, in one sentence."""


def read_plain_yaml(content: bytes) -> Plain:
    """The one document of `content`. PlainYamlError for everything that is not plain data."""
    try:
        return _Document(content.decode()).read()
    except PlainYamlError:
        raise
    except UnicodeDecodeError as error:
        raise PlainYamlError(f"it is not YAML: byte {error.start} is not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PlainYamlError(f"it is not YAML: {error.problem} (line {line})") from error
    except Exception as error:
        # PyYAML raises more than its own errors: ValueError for an escape beyond Unicode, for one.
        raise PlainYamlError(f"it is not YAML: {error}") from error


class _Document:
    """The parser reports events one by one, so what is refused is refused before it is built."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        self._num_nodes = 0

    def read(self) -> Plain:
        next(self._events)  # The start of the stream.
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        found = self._node(next(self._events), 1)
        next(self._events)  # The end of the document.
        if not isinstance(next(self._events), yaml.StreamEndEvent):
            raise PlainYamlError("it holds more than one YAML document")
        return found

    def _node(self, event: yaml.Event, depth: int) -> Plain:
        self._check_bounds(depth)
        match event:
            case yaml.ScalarEvent():
                _check_plain(event)
                is_bare = event.implicit[0]
                return None if is_bare and event.value in _NULL else str(event.value)
            case yaml.MappingStartEvent():
                _check_plain(event)
                return self._mapping(depth)
            case yaml.SequenceStartEvent():
                _check_plain(event)
                return list(self._items(yaml.SequenceEndEvent, depth))
            case _:
                raise PlainYamlError("it holds an alias (*): write every value out")

    def _mapping(self, depth: int) -> dict[str, Plain]:
        found: dict[str, Plain] = {}
        nodes = self._items(yaml.MappingEndEvent, depth)
        for key in nodes:
            if not isinstance(key, str):
                raise PlainYamlError("a key is no text: every key must be a word")
            if key == "<<":
                raise PlainYamlError("it holds a merge (<<): write every value out")
            if key in found:
                raise PlainYamlError(f"key {key!r} is there twice")
            found[key] = next(nodes)
        return found

    def _items(self, end: type[yaml.Event], depth: int) -> Iterator[Plain]:
        while not isinstance(event := next(self._events), end):
            yield self._node(event, depth + 1)

    def _check_bounds(self, depth: int) -> None:
        self._num_nodes += 1
        if depth > MAX_DEPTH:
            raise PlainYamlError(f"it is nested more than {MAX_DEPTH} levels deep")
        if self._num_nodes > MAX_NODES:
            raise PlainYamlError(f"it holds more than {MAX_NODES} values")


def _check_plain(event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
    if event.anchor is not None:
        raise PlainYamlError("it holds an anchor (&): write every value out")
    if event.tag is not None:
        raise PlainYamlError(f"it holds the tag {event.tag!r}: write values without tags")
