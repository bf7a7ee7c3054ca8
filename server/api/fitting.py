"""Fits the sampling options of a chat to what the reading of calls and reasoning needs."""

from __future__ import annotations

from dataclasses import replace

from server.api.chat.format import ChatPrompt
from server.api.generation import Sampling


def fitted(sampling: Sampling, prompt: ChatPrompt) -> Sampling:
    """The options with what the prompt needs. ApiError for a grammar that cannot go with it."""
    if prompt.shows_special_tokens:
        sampling = replace(sampling, skip_special_tokens=False)
    grammar, asked_as = prompt.constrained(sampling.grammar, sampling.grammar_asked_as)
    return replace(sampling, grammar=grammar, grammar_asked_as=asked_as)
