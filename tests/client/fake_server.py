"""A server whose tokens are a function of everything before them, and relays that can be killed.

The protocols are the real ones: the server's own translators stand over an engine that needs no
model. A relay stands between client and server and dies as a machine does, all connections at once;
the engine falls silent after so many tokens that a test can count on where the stream breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from models.vision.image_format import ImageFormat
from server.api.access.gatekeeper import Gatekeeper
from server.api.servers.grpc_server import create_grpc_server
from server.api.servers.http_port import HttpPort
from server.api.servers.http_server import create_http_app
from server.api.tokenizers.tokenizer import Tokenizer
from server.config.server_config import ServerConfig
from server.files.tls_files import tls_files
from server.lifecycle import Lifecycle
from server.link.frames import EngineInfo, TokenEvent
from server.link.sampling import SamplingParams
from tests.api.fakes import (
    FakeEngine,
    Submission,
    logprobs_of,
    make_health,
    make_service,
    small_pretrained,
)
from tests.api.grpc.serving import reserved_port

EOS = FakeEngine.EOS[0]
FIRST_LETTER, NUM_LETTERS = 60, 24


def next_token(params: SamplingParams, index: int, prompt: list[int], generated: list[int]) -> int:
    """A letter that depends on all it may: the seed when sampled, counts when penalised."""
    key = [*prompt, len(generated), *generated[-3:], params.min_tokens]
    if params.temperature > 0:
        key += [params.seed, index]
    if params.frequency_penalty:
        key += [generated.count(letter) for letter in set(generated)]
    return FIRST_LETTER + zlib.crc32(repr(key).encode()) % NUM_LETTERS


class FunctionEngine(FakeEngine):
    """Generates up to max_tokens with `next_token`; silent after `halt_after` tokens, if not None.

    While `num_refusals` is above 0 it says that its queue is full, and counts down.
    """

    def __init__(self, *, halt_after: int | None = None, version: str = "1") -> None:
        super().__init__([[]], max_model_len=1024)
        self.halt_after = halt_after
        self.num_refusals = 0
        self.info = EngineInfo(
            model="small",
            version=version,
            max_model_len=1024,
            vocab_size=266,
            eos_token_ids=(EOS,),
            max_num_seqs=8,
        )

    async def _play(self, submission: Submission, script: Sequence[Sequence[int]]) -> None:
        if self.num_refusals:
            self.num_refusals -= 1
            submission.stream.fail("queue_full", "8 requests wait already; try again later")
            return
        received = submission.received or [[]] * submission.n
        generated = {i: list(ids) for i, ids in enumerate(received) if ids is not None}
        unfinished = [i for i in generated if len(generated[i]) < submission.params.max_tokens]
        num_sent = 0
        while unfinished and num_sent != self.halt_after:
            for index in tuple(unfinished):
                self._generate(submission, index, generated[index], num_sent)
                if len(generated[index]) == submission.params.max_tokens:
                    unfinished.remove(index)
            num_sent += 1
            await asyncio.sleep(0)

    def _generate(
        self, submission: Submission, index: int, generated: list[int], num_sent: int
    ) -> None:
        params, stream = submission.params, submission.stream
        token_id = next_token(params, index, submission.prompt_token_ids, generated)
        generated.append(token_id)
        is_last = len(generated) == params.max_tokens
        stream.put(
            TokenEvent(
                request_id=stream.request_id,
                index=index,
                token_ids=[token_id],
                logprobs=[logprobs_of(token_id, params.num_logprobs)]
                if params.num_logprobs >= 0
                else None,
                finish_reason="length" if is_last else None,
                num_cached_tokens=2 if num_sent == 0 else 0,
            )
        )


class SayingEngine(FakeEngine):
    """Says a text, one token per step; silent after `halt_after` tokens, if not None."""

    def __init__(self, token_ids: Sequence[int], *, halt_after: int | None = None) -> None:
        script = [[token_id] for token_id in [*token_ids, EOS]]
        super().__init__(script, max_model_len=8192, vocab_size=400)
        self.halt_after = halt_after

    async def _play(self, submission: Submission, script: Sequence[Sequence[int]]) -> None:
        if self.halt_after is None:
            await super()._play(submission, script)
            return
        for position, token_ids in enumerate(script[: self.halt_after]):
            await asyncio.sleep(0)
            is_first = position == 0
            self._say(submission, 0, token_ids, is_first=is_first, is_last=False)


@dataclass
class FakeServer[E: FakeEngine]:
    """Both protocols over one engine. `addresses` by protocol."""

    engine: E
    lifecycle: Lifecycle
    addresses: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def fake_server[E: FakeEngine](
    engine: E,
    tokenizer: Tokenizer | None = None,
    gatekeeper: Gatekeeper | None = None,
    image_format: ImageFormat | None = None,
    **settings: Any,
) -> AsyncIterator[FakeServer[E]]:
    lifecycle = Lifecycle()
    lifecycle.mark_ready()
    tokenizer = tokenizer or Tokenizer(small_pretrained())
    service = make_service(engine, tokenizer, lifecycle, image_format=image_format)
    health = make_health(engine, lifecycle)
    server = FakeServer(engine, lifecycle)
    with reserved_port() as port, socket.create_server(("127.0.0.1", 0)) as listening:
        config = ServerConfig(host="127.0.0.1", grpc_port=port, **settings)
        tls = tls_files(config)
        grpc_server = create_grpc_server(service, health, config, gatekeeper=gatekeeper, tls=tls)
        await grpc_server.start()
        app = create_http_app(service, health, config, gatekeeper=gatekeeper)
        http_server = HttpPort(app, config, flush_seconds=1, tls=tls)
        serving = asyncio.create_task(http_server.serve(sockets=[listening]))
        server.addresses["grpc"] = f"127.0.0.1:{port}"
        server.addresses["http"] = f"127.0.0.1:{listening.getsockname()[1]}"
        try:
            yield server
        finally:
            http_server.should_exit = http_server.force_exit = True
            await serving
            await grpc_server.stop(0)


class Relay:
    """Passes bytes between a port of its own and a server, until it is killed."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._transports: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.num_connections = 0
        self.address = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    def kill(self) -> None:
        """End every connection without a word, and refuse new ones."""
        assert self._server is not None
        self._server.close()
        for writer in self._transports:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()

    def redirect(self, target: str) -> None:
        """End every connection; new ones lead elsewhere."""
        self.target = target
        for writer in self._transports:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        host, _, port = self.target.rpartition(":")
        upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
        self._transports += [writer, upstream_writer]
        for source, sink in ((reader, upstream_writer), (upstream_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        sink.close()


@asynccontextmanager
async def relays(targets: Sequence[str]) -> AsyncIterator[list[Relay]]:
    """A relay to each address; whatever is left of them is killed at the end."""
    started = [Relay(target) for target in targets]
    for relay in started:
        await relay.start()
    try:
        yield started
    finally:
        for relay in started:
            relay.kill()
