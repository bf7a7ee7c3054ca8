"""Server-sent events: each wake-up is one write with every event that is ready, each event whole.

If a client is gone or reads nothing, its request is aborted. Knows ASGI and when to write, but not
what the events say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Protocol

import msgspec
from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.api.http.connections.writing import PARTS, Parts
from server.api.http.disconnect import ClientGoneError, until_disconnect
from server.api.http.errors.error_responses import error_json
from server.api.http.json_bodies.json_response import encode
from server.api.large_work import MAX_INLINE_UNITS
from server.api.streams.generation_group import GenerationGroup, Taken
from server.errors import ApiError, ErrorKind

logger = logging.getLogger(__name__)

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Asks nginx and similar proxies not to hold events back.
    (b"x-accel-buffering", b"no"),
)
DONE = b"data: [DONE]\n\n"


class Chunks(Protocol):
    """The chunks that an endpoint makes of a stream."""

    def chunks(self, taken: Taken) -> Iterable[msgspec.Struct]:
        """The chunks for these deltas, each with its prompt's position; may be empty."""

    def closing(self) -> Iterable[msgspec.Struct]:
        """The chunks after the last delta."""


class NamedChunks(Chunks, Protocol):
    """Chunks that are events with names, the tags of their structs, and that word a failure."""

    def failing(self, error: ApiError) -> Iterable[msgspec.Struct]:
        """The chunks that end a stream which has failed."""


class EventStream(Response):
    """Writes a group's deltas as they come, and closes the group in every case.

    `[DONE]` follows the last event, as OpenAI's first endpoints have it.
    """

    def __init__(
        self, group: GenerationGroup, chunks: Chunks, *, write_timeout_seconds: float
    ) -> None:
        self.status_code = 200
        self.background: BackgroundTask | None = None
        self._group = group
        self._chunks = chunks
        self._write_timeout_seconds = write_timeout_seconds
        self._has_prompt_logprobs = any(
            generation.request.sampling.prompt_logprobs is not None
            for generation in group.generations
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with until_disconnect(receive):
                await self._write(send, scope.get("extensions", {}).get(PARTS))
        except TimeoutError:
            logger.warning("a client read nothing for %s s", self._write_timeout_seconds)
        except (ClientGoneError, OSError):
            logger.info("a client went away before its stream ended")
        finally:
            await self._group.aclose()

    async def _write(self, send: Send, parts: Parts | None) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": list(HEADERS)}
        await self._send(send, start)
        async with aclosing(self._events(parts)) as blocks:
            async for events in blocks:
                body = {"type": "http.response.body", "body": events, "more_body": True}
                await self._send(send, body)
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: Message) -> None:
        """Send a message. TimeoutError if the client does not read for too long."""
        async with asyncio.timeout(self._write_timeout_seconds):
            await send(message)

    async def _events(self, parts: Parts | None) -> AsyncGenerator[bytes]:
        """The bytes to write at each wake-up, until the end or an error.

        `parts` takes those for which nothing must wait.
        """
        try:
            while taken := await self._group.take():
                if events := await self._encoded(taken):
                    yield events
                if parts is not None and not self._is_large:
                    await self._write_at_once(parts)
            yield self._encode(self._chunks.closing()) + self._end
        except ApiError as error:
            yield self._failure(error)
        except Exception:
            logger.exception("a stream failed")
            yield self._failure(
                ApiError(ErrorKind.INTERNAL, "the server failed to go on with this stream")
            )

    async def _write_at_once(self, parts: Parts) -> None:
        """Write events while the client reads fast enough, without waking the request's task."""

        def write(taken: Taken) -> None:
            if events := self._encode(self._chunks.chunks(taken)):
                parts.write_part(events)

        await self._group.feed(lambda: parts.can_write_part, write)

    _end = DONE

    def _encode(
        self,
        chunks: Iterable[msgspec.Struct],
        encode: Callable[[msgspec.Struct], bytes] = msgspec.json.encode,
    ) -> bytes:
        return b"".join(_event(encode(chunk)) for chunk in chunks)

    def _failure(self, error: ApiError) -> bytes:
        return _event(error_json(error)) + DONE

    @property
    def _is_large(self) -> bool:
        """Whether the log probabilities of prompts are many."""
        return self._has_prompt_logprobs and self._group.num_prompt_entries > MAX_INLINE_UNITS

    async def _encoded(self, taken: Taken) -> bytes:
        """The events of these deltas; in a thread if they are large."""
        if not self._is_large:
            return self._encode(self._chunks.chunks(taken))
        return await asyncio.to_thread(lambda: self._encode(self._chunks.chunks(taken), encode))


class NamedEventStream(EventStream):
    """Events with names. Nothing follows the last one."""

    _end = b""

    def __init__(
        self, group: GenerationGroup, chunks: NamedChunks, *, write_timeout_seconds: float
    ) -> None:
        super().__init__(group, chunks, write_timeout_seconds=write_timeout_seconds)
        self._named = chunks

    def _encode(
        self,
        chunks: Iterable[msgspec.Struct],
        encode: Callable[[msgspec.Struct], bytes] = msgspec.json.encode,
    ) -> bytes:
        return b"".join(map(_named_event, chunks))

    def _failure(self, error: ApiError) -> bytes:
        return self._encode(self._named.failing(error))


def _named_event(chunk: msgspec.Struct) -> bytes:
    name = chunk.__struct_config__.tag
    return f"event: {name}\n".encode() + _event(msgspec.json.encode(chunk))


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
