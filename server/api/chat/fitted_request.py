"""Fits the request for a chat's answer to what the reading of calls and reasoning needs."""

from __future__ import annotations

from dataclasses import replace

from server.api.chat.format import ChatPrompt
from server.api.requests.generation import GenerateRequest


def fitted(request: GenerateRequest, prompt: ChatPrompt) -> GenerateRequest:
    """The request with what the prompt needs. ApiError for a grammar that cannot go with it."""
    sampling = request.sampling
    grammar, asked_as = prompt.constrained(sampling.grammar, request.grammar_asked_as)
    if prompt.shows_special_tokens:
        sampling = replace(sampling, skip_special_tokens=False)
    sampling = replace(sampling, grammar=grammar)
    return replace(request, sampling=sampling, grammar_asked_as=asked_as, images=prompt.images)
