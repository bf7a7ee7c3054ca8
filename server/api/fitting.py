"""Fits the sampling options of a chat to what the reading of calls and reasoning needs."""

from __future__ import annotations

from dataclasses import replace

from server.api.chat.format import ChatPrompt
from server.api.generation import Sampling
from server.errors import ApiError, ErrorKind


def fitted(sampling: Sampling, prompt: ChatPrompt, asked_as: str = "response_format") -> Sampling:
    """The options with what the prompt needs. `asked_as` is the field of the client's own form."""
    if prompt.shows_special_tokens:
        sampling = replace(sampling, skip_special_tokens=False)
    if prompt.grammar is None:
        return sampling
    if sampling.grammar is not None:
        raise ApiError(
            ErrorKind.INVALID_REQUEST,
            f"{asked_as} and tools whose schemas are enforced exclude each other; leave one out",
            param=asked_as,
        )
    return replace(sampling, grammar=prompt.grammar)
