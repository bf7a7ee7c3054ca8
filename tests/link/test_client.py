"""The client over a real socket, against a hand-written other end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from server.errors import ApiError, ErrorKind
from server.link.client import EngineClient, EngineStream
from server.link.frames import (
    Abort,
    EngineInfo,
    Fatal,
    Pulse,
    Refused,
    Step,
    Submit,
    ToApi,
    ToEngine,
    TokenEvent,
)
from server.link.framing import engine_codec
from server.link.sampling import SamplingParams
from server.link.wakeup import Wakeup

INFO = EngineInfo(
    model="m", version="1", max_model_len=9, vocab_size=9, eos_token_ids=(0,), max_num_seqs=1
)


@dataclass
class FakeEngineEnd:
    """The engine's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    codec: object = field(default_factory=engine_codec)
    received: list[ToEngine] = field(default_factory=list)

    def send(self, *frames: ToApi) -> None:
        self.writer.write(b"".join(self.codec.encode(frame) for frame in frames))

    async def receive(self, count: int = 1) -> list[ToEngine]:
        buffer = bytearray()
        while len(self.received) < count:
            buffer += await self.reader.read(1 << 16)
            self.received += self.codec.feed(buffer)
        frames, self.received = self.received[:count], self.received[count:]
        return frames


@asynccontextmanager
async def connected(path: str) -> AsyncIterator[tuple[EngineClient, FakeEngineEnd]]:
    ends: asyncio.Queue[FakeEngineEnd] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.put_nowait(FakeEngineEnd(reader, writer))

    server = await asyncio.start_unix_server(accept, path)
    client = EngineClient(path)
    await client.connect()
    end = await ends.get()
    try:
        yield client, end
    finally:
        client.close()
        end.writer.close()
        await client.wait_lost()
        server.close()
        await server.wait_closed()


@pytest.fixture
async def link(tmp_path) -> AsyncIterator[tuple[EngineClient, FakeEngineEnd]]:
    async with connected(str(tmp_path / "engine.sock")) as both:
        yield both


def submit(client: EngineClient, wakeup: Wakeup | None = None) -> EngineStream:
    params = SamplingParams(max_tokens=5)
    return client.submit((1, 2), params, n=1, deadline=None, wakeup=wakeup or Wakeup())


def token(stream: EngineStream, *token_ids: int) -> TokenEvent:
    return TokenEvent(request_id=stream.request_id, token_ids=list(token_ids))


async def woken(wakeup: Wakeup) -> None:
    await asyncio.wait_for(wakeup.wait(), 5)
    wakeup.clear()


async def test_each_stream_gets_its_own_events(link):
    client, end = link
    wakeup = Wakeup()
    first, second = submit(client, wakeup), submit(client, wakeup)
    assert first.request_id != second.request_id
    end.send(Step(events=[token(second, 7), token(first, 5)]), Step(events=[token(first, 6)]))
    taken: list[TokenEvent] = []
    while len(taken) < 2:
        await woken(wakeup)
        taken += first.take()
    assert [event.token_ids for event in taken] == [[5], [6]]
    assert [event.token_ids for event in second.take()] == [[7]]
    assert first.take() == []


async def test_what_the_engine_is_told(link):
    client, end = link
    stream = submit(client)
    client.abort(stream, index=0, reason="stop")
    client.refuse("invalid_request")
    submitted, aborted, refused = await end.receive(3)
    assert isinstance(submitted, Submit)
    assert (submitted.request_id, submitted.prompt_token_ids) == (stream.request_id, [1, 2])
    assert aborted == Abort(request_id=stream.request_id, index=0, reason="stop")
    assert refused == Refused(outcome="invalid_request")


async def test_a_released_stream_gets_nothing_more(link):
    client, end = link
    wakeup = Wakeup()
    gone, staying = submit(client), submit(client, wakeup)
    client.release(gone)
    client.release(gone)
    end.send(Step(events=[token(gone, 5), token(staying, 6)]))
    await woken(wakeup)
    assert gone.take() == []


async def test_info_and_the_newest_pulse_are_kept(link):
    client, end = link
    assert (client.info, client.pulse) == (None, None)
    end.send(Pulse(state="starting"), Pulse(state="ready", metrics=b"x 1\n"), INFO)
    assert await client.wait_ready() == INFO
    assert client.pulse == Pulse(state="ready", metrics=b"x 1\n")
    assert client.pulse_age < 5


async def test_a_frame_may_come_in_pieces(link):
    client, end = link
    for byte in end.codec.encode(INFO):
        end.writer.write(bytes([byte]))
        await end.writer.drain()
    assert await client.wait_ready() == INFO


async def test_an_engine_that_ends_ends_every_stream_as_unavailable(link):
    client, end = link
    wakeups = [Wakeup(), Wakeup()]
    streams = [submit(client, wakeup) for wakeup in wakeups]
    end.writer.close()
    for stream, wakeup in zip(streams, wakeups, strict=True):
        await woken(wakeup)
        (event,) = stream.take()
        assert (event.finish_reason, event.error) == ("error", "unavailable")
        assert event.message == "the engine process has ended"
    assert await client.wait_lost() == "the engine process has ended"


async def test_a_fatal_fault_reaches_every_stream_in_the_engines_words(link):
    client, end = link
    wakeup = Wakeup()
    stream = submit(client, wakeup)
    end.send(Fatal(message="out of memory"))
    end.writer.close()
    assert await client.wait_lost() == "the engine failed: out of memory"
    (event,) = stream.take()
    assert (event.error, event.message) == ("internal", "the engine failed: out of memory")


async def test_without_an_engine_nothing_can_be_submitted(link):
    client, end = link
    end.writer.close()
    await client.wait_lost()
    with pytest.raises(ApiError, match="has ended") as caught:
        submit(client)
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    client.refuse("unavailable")


async def test_closing_ends_the_streams_as_stopping(link):
    client, _ = link
    stream = submit(client)
    client.close()
    assert stream.take()[0].message == "the server is stopping"


async def test_an_engine_that_never_was_ready_does_not_keep_anyone_waiting(link):
    client, end = link
    waiting = asyncio.create_task(client.wait_ready())
    end.writer.close()
    assert await waiting is None


async def test_before_the_engine_listens_the_client_waits(tmp_path):
    path = str(tmp_path / "later.sock")
    client = EngineClient(path)
    connecting = asyncio.create_task(client.connect())
    await asyncio.sleep(0)
    with pytest.raises(ApiError, match="still starting"):
        submit(client)
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), path)
    await connecting
    await client.wait_lost()
    server.close()
    await server.wait_closed()
