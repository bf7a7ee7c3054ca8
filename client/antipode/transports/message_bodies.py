"""A conversation's messages as OpenAI's bodies, images as `image_url` parts.

Knows neither what a model makes of an image nor how a body is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from antipode.requests.images import Image


def message_bodies(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose content is text stay as they are."""
    return [_message(entry) for entry in messages]


def _message(entry: Mapping[str, Any]) -> dict[str, Any]:
    content = entry.get("content")
    if not isinstance(content, list):
        return dict(entry)
    return {**entry, "content": [_part(part) for part in content]}


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": part.as_url()}}
