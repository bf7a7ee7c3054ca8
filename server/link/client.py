"""The API process's end of the socket to the engine.

Many requests share one connection: events are handed to the stream of their request, the newest
pulse and the engine's description are kept. When the connection ends, every open stream ends with
an error that says so. This module knows no text, no tokenizer and no transport to clients.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Literal, cast

from server.errors import ApiError, ErrorKind
from server.link.frames import (
    Abort,
    AdapterAction,
    AdapterCommand,
    EngineErrorKind,
    EngineInfo,
    Fatal,
    KeyUse,
    Pooling,
    Pulse,
    Refused,
    Step,
    Submit,
    SwapPolicy,
    ToApi,
    ToEngine,
    TokenEvent,
    VersionAction,
    VersionCommand,
    VersionResult,
    Vocabulary,
)
from server.link.framing import api_codec
from server.link.images import PromptImage
from server.link.sampling import SamplingParams
from server.link.wakeup import Wakeup

type AbortReason = Literal["abort", "stop", "deadline_exceeded"]

CONNECT_RETRY_SECONDS = 0.05


class EngineStream:
    """Events of one request that nobody has taken yet. `wakeup` is set whenever one arrives."""

    __slots__ = ("_events", "_wakeup", "request_id")

    def __init__(self, request_id: int, wakeup: Wakeup) -> None:
        self.request_id = request_id
        self._events: list[TokenEvent] = []
        self._wakeup = wakeup

    def put(self, event: TokenEvent) -> None:
        self._events.append(event)
        self._wakeup.set()

    def fail(self, error: EngineErrorKind, message: str) -> None:
        """End the stream from this side, in the form in which the engine would."""
        self.put(
            TokenEvent(
                request_id=self.request_id, finish_reason="error", error=error, message=message
            )
        )

    def take(self) -> list[TokenEvent]:
        events, self._events = self._events, []
        return events


class EngineClient(asyncio.Protocol):
    """One connection to the engine process, made once: an engine that is gone does not come back.

    Belongs to the event loop it is created in.
    """

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._codec = api_codec()
        self._buffer = bytearray()
        self._streams: dict[int, EngineStream] = {}
        self._request_ids = itertools.count(1)
        self._commands: dict[int, asyncio.Future[VersionResult]] = {}
        self._transport: asyncio.Transport | None = None
        self._last_pulse_time = time.monotonic()
        self._ready = asyncio.Event()
        self._lost = asyncio.Event()
        # None until the engine is ready.
        self.info: EngineInfo | None = None
        # The newest one, None before the first.
        self.pulse: Pulse | None = None
        # Why there is no engine any more, empty while there may be one.
        self.failure = ""

    @property
    def pulse_age(self) -> float:
        """Seconds since the newest pulse, or since this end started to wait for one."""
        return time.monotonic() - self._last_pulse_time

    async def connect(self) -> None:
        """Wait until the engine listens, then return connected."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.create_unix_connection(lambda: self, self._socket_path)
                return
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(CONNECT_RETRY_SECONDS)

    async def wait_ready(self) -> EngineInfo | None:
        """Return once the engine serves, or None once it is certain that it never will."""
        await self._ready.wait()
        return self.info

    async def wait_lost(self) -> str:
        """Return, with the reason, once the connection has ended."""
        await self._lost.wait()
        return self.failure

    def close(self) -> None:
        """End the connection; every open stream ends as unavailable."""
        self._fail("unavailable", "the server is stopping")
        if self._transport is not None:
            self._transport.close()

    def submit(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        n: int,
        received: Sequence[Sequence[int] | None] = (),
        deadline: float | None,
        wakeup: Wakeup,
        version: str | None = None,
        adapter: str | None = None,
        adapter_version: str | None = None,
        source: str = "",
        priority: int = 0,
        ttft_seconds: float | None = None,
        pooling: Pooling | None = None,
        images: Sequence[PromptImage] = (),
    ) -> EngineStream:
        """Hand a validated request over. ApiError when the engine is gone."""
        stream = EngineStream(next(self._request_ids), wakeup)
        frame = Submit(
            request_id=stream.request_id,
            prompt_token_ids=list(prompt_token_ids),
            images=list(images),
            params=params,
            n=n,
            received=[None if entry is None else list(entry) for entry in received],
            arrival=time.monotonic(),
            deadline=deadline,
            version=version,
            adapter=adapter,
            adapter_version=adapter_version,
            source=source,
            priority=priority,
            ttft_seconds=ttft_seconds,
            pooling=pooling,
        )
        if not self._send(frame):
            raise ApiError(ErrorKind.UNAVAILABLE, self.failure or "the engine is still starting")
        self._streams[stream.request_id] = stream
        return stream

    def introduce(self, vocabulary: Vocabulary) -> None:
        """Make the tokens known by which grammars of requests are compiled."""
        self._send(vocabulary)

    def abort(
        self, stream: EngineStream, *, index: int | None = None, reason: AbortReason = "abort"
    ) -> None:
        """End one choice or (index None) all of them; the engine answers nothing."""
        self._send(Abort(request_id=stream.request_id, index=index, reason=reason))

    def release(self, stream: EngineStream) -> None:
        """Forget a stream; what still comes for it is dropped."""
        self._streams.pop(stream.request_id, None)

    def refuse(self, outcome: str) -> None:
        """Count a request that was refused before it became one of the engine's."""
        self._send(Refused(outcome=outcome))

    def count_key_use(self, key: str, *, num_prompt_tokens: int, num_generated_tokens: int) -> None:
        """Count what a call of an API key has used."""
        self._send(
            KeyUse(
                key=key,
                num_prompt_tokens=num_prompt_tokens,
                num_generated_tokens=num_generated_tokens,
            )
        )

    async def change_version(
        self,
        action: VersionAction,
        version: str = "",
        *,
        path: str = "",
        policy: SwapPolicy | None = None,
    ) -> None:
        """Have the engine change its versions; returns when it has. ApiError if it cannot."""
        await self._command(
            VersionCommand(
                command_id=next(self._request_ids),
                action=action,
                version=version,
                path=path,
                policy=policy,
            )
        )

    async def change_adapter(
        self, action: AdapterAction, name: str, *, version: str | None = None, path: str = ""
    ) -> None:
        """Have the engine load or unload an adapter; returns when it has. ApiError as above."""
        await self._command(
            AdapterCommand(
                command_id=next(self._request_ids),
                action=action,
                name=name,
                version=version,
                path=path,
            )
        )

    async def _command(self, command: VersionCommand | AdapterCommand) -> None:
        """Send a command and wait for its answer."""
        answer = self._commands[command.command_id] = asyncio.Future()
        try:
            if not self._send(command):
                raise ApiError(
                    ErrorKind.UNAVAILABLE, self.failure or "the engine is still starting"
                )
            result = await answer
        finally:
            del self._commands[command.command_id]
        if result.error is not None:
            raise ApiError(ErrorKind(result.error), result.message)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not a check: uvloop's transports are none of asyncio's by inheritance.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for frame in self._codec.feed(self._buffer):
            self._receive(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("unavailable", "the engine process has ended")
        self._ready.set()
        self._lost.set()

    def _receive(self, frame: ToApi) -> None:
        match frame:
            case Step(events=events):
                for event in events:
                    if stream := self._streams.get(event.request_id):
                        stream.put(event)
            case Pulse():
                self.pulse = frame
                self._last_pulse_time = time.monotonic()
            case EngineInfo():
                self.info = frame
                self._ready.set()
            case VersionResult():
                if (answer := self._commands.get(frame.command_id)) and not answer.done():
                    answer.set_result(frame)
            case Fatal(message=message):
                self._fail("internal", f"the engine failed: {message}")

    def _fail(self, error: EngineErrorKind, reason: str) -> None:
        """The first reason is the one that counts; what follows is its consequence."""
        if self.failure:
            return
        self.failure = reason
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(error, reason)
        for command_id, answer in self._commands.items():
            if not answer.done():
                answer.set_result(VersionResult(command_id=command_id, error=error, message=reason))

    def _send(self, frame: ToEngine) -> bool:
        if self._transport is None or self.failure:
            return False
        self._transport.write(self._codec.encode(frame))
        return True
