"""Embeddings: a call's inputs in batches, each of which is tried at the next server if one fails.

Knows a transport only as a function from one batch to its vectors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from antipode.errors import (
    AntipodeError,
    DeadlineExceededError,
    InvalidRequestError,
    ServerError,
    UnavailableError,
)
from antipode.resilience.retry import Attempts, RetryPolicy
from antipode.resilience.timeouts import TIMEOUTS, timeout_after
from antipode.types import EmbeddingRequest, Embeddings

# Inputs of one request: its answer fits in one message, and comes before the server seems stalled.
BATCH = 64


def as_inputs(
    given: str | Sequence[int] | Sequence[str | Sequence[int]],
) -> Sequence[str | Sequence[int]]:
    """A sequence of inputs, also where a call gives only one."""
    inputs: Any = given
    is_one = isinstance(inputs, str) or (len(inputs) > 0 and isinstance(inputs[0], int))
    return [inputs] if is_one else inputs


class Try(Protocol):
    """One call of a server, for at most `timeout` seconds."""

    async def __call__(self, request: EmbeddingRequest, timeout: float | None) -> Embeddings: ...


async def embed(
    try_once: Try,
    request: EmbeddingRequest,
    policy: RetryPolicy,
    deadline: float | None,
) -> Embeddings:
    """Every input's vector. All of one call are of one version, or the call fails.

    `try_once` calls a server, and passes the turn to the next server where the call fails.
    """
    if len({isinstance(each, str) for each in request.inputs}) > 1:
        raise InvalidRequestError("inputs mixes texts and token ids; make a call for each")
    found = Embeddings()
    for start in range(0, len(request.inputs), BATCH):
        inputs = request.inputs[start : start + BATCH]
        attempts = Attempts(policy, deadline)
        batch = await _insist(try_once, replace(request, inputs=inputs), policy, attempts)
        if found.vectors and batch.model_version != found.model_version:
            raise ServerError(
                f"the model changed from version {found.model_version!r} to"
                f" {batch.model_version!r} during the call, and vectors of both do not compare"
            )
        found.add(batch)
    return found


async def _insist(
    try_once: Try, request: EmbeddingRequest, policy: RetryPolicy, attempts: Attempts
) -> Embeddings:
    while True:
        try:
            return await _once(try_once, request, policy, attempts)
        except AntipodeError as error:
            await asyncio.sleep(attempts.delay_after(error, time.monotonic()))


async def _once(
    try_once: Try, request: EmbeddingRequest, policy: RetryPolicy, attempts: Attempts
) -> Embeddings:
    """One try, for as long as a server may be silent."""
    remaining = attempts.remaining(time.monotonic())
    stall = policy.stall_timeout
    try:
        async with timeout_after(stall if remaining is None else min(stall, remaining)):
            found = await try_once(request, remaining)
    except TIMEOUTS:
        attempts.remaining(time.monotonic())
        raise UnavailableError(f"the server said nothing for {stall:g} s") from None
    except DeadlineExceededError as error:
        # A deadline of a gateway or server, not of the caller.
        attempts.remaining(time.monotonic())
        raise UnavailableError(error.message) from error
    if len(found.vectors) != len(request.inputs):
        raise ServerError(
            f"the server's answer is malformed: {len(found.vectors)} vectors for"
            f" {len(request.inputs)} inputs"
        )
    return found
