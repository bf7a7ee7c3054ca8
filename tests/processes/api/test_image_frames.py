"""An API process over a checkpoint that reads images: what reaches the engine, frame by frame."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest
from antipode import AsyncClient
from PIL import Image

from models.vision.image_format import read_image_format
from server.api.embeddings.embedding_recipe import EmbeddingRecipe
from server.api.http.connections.connection import HttpConnection
from server.api.images import image_reader
from server.api.images.decoding import read_image
from server.api.tokenizers.tokenizer import Tokenizer
from server.config.config import Config
from server.config.server_config import ServerConfig
from server.link.frames import EngineInfo, Pulse, Step, Submit, TokenEvent
from server.link.framing import engine_codec
from server.processes.api.process import ApiProcess
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import reserved_port
from tests.api.images.pictures import FORM, file_of, picture
from tests.api.images.vision import MAX_IMAGES, vision_tokenizer

INFO = EngineInfo(
    model="small",
    version="1",
    max_model_len=2048,
    vocab_size=400,
    eos_token_ids=FakeEngine.EOS,
    max_num_seqs=8,
    max_images=MAX_IMAGES,
)
# Noise, because it cannot be compressed: a file is a little larger than its pixels.
NOISE = np.random.default_rng(1).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
LARGE = file_of(Image.fromarray(NOISE), compress_level=1)


class FakeEngineProcess:
    """The engine's end of the socket: answers every request with one token."""

    def __init__(self):
        self.submitted: list[Submit] = []

    async def serve(self, reader, writer):
        codec, buffer = engine_codec(), bytearray()
        for frame in (INFO, Pulse(state="ready", metrics=b"")):
            writer.write(codec.encode(frame))
        while data := await reader.read(1 << 20):
            buffer += data
            for frame in codec.feed(buffer):
                if isinstance(frame, Submit):
                    self.submitted.append(frame)
                    writer.write(codec.encode(Step(events=[_answer(frame)])))
        writer.close()


def _answer(frame):
    return TokenEvent(request_id=frame.request_id, token_ids=[72], finish_reason="length")


@pytest.fixture
def checkpoint(tmp_path):
    """The files that an API process reads of a checkpoint."""
    vision_tokenizer()._pretrained.save_pretrained(tmp_path)
    special = vision_tokenizer().special_id
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": special(FORM.start),
        "eoi_token_index": special(FORM.end),
        "image_token_index": special(FORM.token),
        "mm_tokens_per_image": FORM.sizes.num_tokens,
        "vision_config": {"image_size": 32},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@asynccontextmanager
async def api_process(checkpoint):
    """The process's parts on this event loop, and its ports."""
    engine, link = FakeEngineProcess(), str(checkpoint / "engine.sock")
    listening = await asyncio.start_unix_server(engine.serve, link)
    with reserved_port() as http, reserved_port() as grpc:
        server = ServerConfig(host="127.0.0.1", http_port=http, grpc_port=grpc)
        process = ApiProcess(
            Config(server=server),
            link,
            Tokenizer.load(checkpoint),
            EmbeddingRecipe(),
            read_image_format(checkpoint),
        )
        running = asyncio.create_task(process.run())
        try:
            await _ready(http)
            yield engine, {"http": f"http://127.0.0.1:{http}", "grpc": f"grpc://127.0.0.1:{grpc}"}
        finally:
            process.command("stop")
            await running
            listening.close()


async def _ready(port):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        while True:
            try:
                if (await client.get("/readyz")).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.02)


async def _probe(address):
    async with httpx.AsyncClient(base_url=address) as client:
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize("transport", ["http", "grpc"])
async def test_the_largest_request_reaches_the_engine_and_probes_go_on(
    checkpoint, monkeypatch, transport
):
    """Files of more than a body may have otherwise: 20 MB, as base64 27 MB.

    A probe is answered while a file is read: a reader on the event loop would wait in vain.
    """
    begun, is_answered = threading.Event(), threading.Event()

    def read_when_probed(*args):
        begun.set()
        assert is_answered.wait(60)
        return read_image(*args)

    monkeypatch.setattr(image_reader, "read_image", read_when_probed)
    parts = [{"type": "image", "image": LARGE} for _ in range(MAX_IMAGES)]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}]
    async with (
        api_process(checkpoint) as (engine, addresses),
        AsyncClient(addresses[transport], trust_env=False) as client,
    ):
        asked = asyncio.create_task(client.generate(messages, max_tokens=1).collect())
        assert await asyncio.to_thread(begun.wait, 60)
        await _probe(addresses["http"])
        is_answered.set()
        [choice] = await asked
    assert choice.token_ids == [72]
    [frame] = engine.submitted
    soft = vision_tokenizer().special_id(FORM.token)
    places = [i for i, token_id in enumerate(frame.prompt_token_ids) if token_id == soft]
    assert [image.start + k for image in frame.images for k in range(4)] == places
    resized = Image.fromarray(NOISE).resize((32, 32), Image.Resampling.BILINEAR).tobytes()
    assert [image.pixels for image in frame.images] == [resized] * MAX_IMAGES
    assert len({image.digest for image in frame.images}) == 1


@pytest.mark.parametrize("transport", ["http", "grpc"])
async def test_images_of_a_client_that_has_gone_are_read_no_further(
    checkpoint, monkeypatch, transport
):
    begun, go_on, num_read = threading.Event(), threading.Event(), []
    is_gone, lose = asyncio.Event(), HttpConnection.connection_lost

    def note(connection, error):
        lose(connection, error)
        is_gone.set()

    def slowly(*args):
        num_read.append(1)
        begun.set()
        assert go_on.wait(60)
        return read_image(*args)

    monkeypatch.setattr(image_reader, "read_image", slowly)
    monkeypatch.setattr(HttpConnection, "connection_lost", note)
    async with (
        api_process(checkpoint) as (engine, addresses),
        AsyncClient(addresses[transport], trust_env=False) as client,
    ):
        asked = asyncio.create_task(client.generate(_messages(3), max_tokens=1).collect())
        assert await asyncio.to_thread(begun.wait, 10)
        is_gone.clear()
        asked.cancel()
        if transport == "http":
            await asyncio.wait_for(is_gone.wait(), 60)
        # Over gRPC its answer comes after the server has seen that the other call has ended.
        await client.generate([{"role": "user", "content": "Hi"}], max_tokens=1).collect()
        go_on.set()
        await client.generate(_messages(1), max_tokens=1).collect()
    assert (len(num_read), [len(frame.images) for frame in engine.submitted]) == (2, [0, 1])


def _messages(num_images):
    parts = [{"type": "image", "image": file_of(picture())}] * num_images
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}]


async def test_files_beyond_the_bound_are_refused_over_both_transports(checkpoint):
    parts = [{"type": "image", "image": LARGE + bytes(2 << 20)}]
    messages = [{"role": "user", "content": parts}]
    async with api_process(checkpoint) as (engine, addresses):
        for address in addresses.values():
            async with AsyncClient(address, trust_env=False) as client:
                with pytest.raises(Exception, match="--max-image-bytes"):
                    await client.generate(messages).collect()
    assert engine.submitted == []
