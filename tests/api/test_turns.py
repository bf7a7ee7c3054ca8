"""However large a body is and whatever it holds, the event loop computes only a moment at once.

The bodies are those of `make bench-edge`, each as large as one may be. CPU time of the loop's
thread is bounded and no time that passes: other load on the machine would decide that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import Iterator

import grpc
import httpx
import pytest

from benchmarks import edge as largest
from server.api.servers.http_server import create_http_app
from server.config.server_config import ServerConfig
from server.pb.inference import open_inference_pb2 as inference
from server.pb.vllm.grpc import vllm_engine_pb2 as vllm
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import serving
from tests.api.http import edge
from tests.api.turns import watched_turns

# `/livez` waits for such a turn, and is to answer within 100 ms. The longest seen took 25 ms.
MOST_SECONDS = 0.1
ANSWERS = (
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
MOST_NUMBERS = 1 << 20
LONG_TEXT = "ab " * (2 << 20)


def _tensor(name: str, datatype: str, entry: str, count: int, shape: str = "") -> bytes:
    """A request for inference whose only tensor holds `entry` so often."""
    data = ",".join([entry] * count)
    head = f'{{"name":"{name}","datatype":"{datatype}","shape":[{shape or count}],"data":[{data}]}}'
    return f'{{"inputs":[{head}]}}'.encode()


def _other_bodies() -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    """Of the protocols that `make bench-edge` does not try."""
    infer = "/v2/models/small/infer"
    yield "infer ids", infer, _tensor("input_ids", "INT32", "9", MOST_NUMBERS - 8), {}
    yield "infer texts", infer, _tensor("text_input", "BYTES", '"a"', 9000), {}
    yield "infer lists", infer, _tensor("input_ids", "INT32", "[9]", 9000, "9000,1"), {}
    raw = struct.pack("<I", 9) * (2 << 20)
    entry = {"name": "input_ids", "datatype": "INT32", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [{**entry, "shape": [2 << 20]}]}).encode()
    for count in (1 << 20, 2 << 20):
        entry |= {"parameters": {"binary_data_size": 4 * count}, "shape": [count]}
        head = json.dumps({"inputs": [entry]}).encode()
        length = {"inference-header-content-length": str(len(head))}
        yield f"infer {count} binary ids", infer, head + raw[: 4 * count], length
    lengths = struct.pack("<I", 0) * (2 << 20)
    entry = {"name": "text_input", "datatype": "BYTES", "shape": [1000]}
    entry["parameters"] = {"binary_data_size": len(lengths)}
    head = json.dumps({"inputs": [entry]}).encode()
    length = {"inference-header-content-length": str(len(head))}
    yield "infer empty texts", infer, head + lengths, length
    options = json.dumps({"stop_token_ids": [9] * MOST_NUMBERS})
    for path, fields in {
        "/v2/models/small/generate": {"text_input": LONG_TEXT},
        "/v2/models/small/generate_stream": {"text_input": "x", "sampling_parameters": options},
        "/v1/messages": {"max_tokens": 1, "messages": [{"role": "user", "content": LONG_TEXT}]},
        "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": LONG_TEXT}]},
        "/v1/responses": {"input": LONG_TEXT},
        "/v1/embeddings": {"input": LONG_TEXT},
        "/v1/embeddings ": {"input": [[9] * 1000] * 1000},
        "/rerank": {"query": "x", "documents": ["ab"] * 9000},
        "/score": {"text_1": "x", "text_2": LONG_TEXT},
    }.items():
        yield path, path.strip(), json.dumps({"model": "small", **fields}).encode(), {}


def _other_messages() -> Iterator[tuple[str, str, bytes]]:
    ids = vllm.TokenizedInput(input_ids=[9] * MOST_NUMBERS)
    engine = "/vllm.grpc.engine.VllmEngine"
    yield (
        "engine ids",
        f"{engine}/Generate",
        vllm.GenerateRequest(tokenized=ids).SerializeToString(),
    )
    yield "engine embed", f"{engine}/Embed", vllm.EmbedRequest(tokenized=ids).SerializeToString()
    aborted = vllm.AbortRequest(request_ids=["a"] * (1 << 20))
    yield "engine abort", f"{engine}/Abort", aborted.SerializeToString()
    service = "/inference.GRPCInferenceService"
    tensor = {"name": "input_ids", "datatype": "INT32", "shape": [MOST_NUMBERS]}
    request = inference.ModelInferRequest(model_name="small", inputs=[tensor])
    request.raw_input_contents.append(struct.pack("<I", 9) * MOST_NUMBERS)
    yield "infer raw ids", f"{service}/ModelInfer", request.SerializeToString()
    request.ClearField("raw_input_contents")
    request.inputs[0].contents.int_contents.extend([9] * MOST_NUMBERS)
    yield "infer ids", f"{service}/ModelInfer", request.SerializeToString()
    yield "health", "/grpc.health.v1.Health/Check", b"\x0a" + b"\xff\xff\xff\x03" + b"a" * (7 << 20)
    load = inference.RepositoryModelLoadRequest(model_name="a" * (7 << 20))
    yield "repository", f"{service}/RepositoryModelLoad", load.SerializeToString()


def messages() -> Iterator[tuple[str, str, bytes]]:
    for name, method, data in largest.messages():
        yield name, f"/antipode.v1.Generation/{method}", data
    yield from _other_messages()


@pytest.fixture
def engine():
    return FakeEngine([[5], [*FakeEngine.EOS]], max_model_len=4096)


async def test_bodies_over_http(service, health):
    app = create_http_app(service, health, ServerConfig())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    longest = {}
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        await client.get("/livez")
        for name, path, body, others in (*largest.bodies(), *_other_bodies()):
            headers = {"content-type": "application/json", **others}
            async with watched_turns() as turns:
                answer = await client.post(path, content=body, headers=headers)
            assert answer.status_code in (200, 400, 413), name
            longest[name] = turns.longest
    assert len(longest) > 40
    assert _too_long(longest) == {}


async def test_messages_over_grpc(engine):
    longest = {}
    async with serving(engine) as server:
        for name, method, data in messages():
            call = server.channel.unary_stream(method)(data)
            async with watched_turns() as turns:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async for _ in call:
                        pass
            assert await call.code() in ANSWERS, name
            longest[name] = turns.longest
    assert len(longest) > 15
    assert _too_long(longest) == {}


CHUNKED = b"POST /x HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
GET = b"GET /x HTTP/1.1\r\nHost: s\r\n\r\n"
LAST = b"GET /x HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n"


def _bytes() -> Iterator[tuple[str, bytes]]:
    yield "chunks of a byte", CHUNKED + b"1\r\na\r\n" * 2_000_000
    fair = b"100\r\n" + b"a" * 256 + b"\r\n"
    yield "chunks as small as may be", CHUNKED + fair * 30_000 + END
    yield "long extensions", CHUNKED + (b"1;" + b"x" * 4000 + b"\r\na\r\n") * 2000 + END
    yield "one long chunk", CHUNKED + b"800000\r\n" + b"a" * (8 << 20) + b"\r\n" + END
    yield "requests in a row", GET * 5000
    yield "a long trailer", CHUNKED + b"0\r\n" + b"X: y\r\n" * 100_000
    yield "a long head", b"GET /x HTTP/1.1\r\n" + b"X: y\r\n" * 1_000_000
    yield "empty lines", b"\r\n" * 1_000_000


def test_bytes_on_a_connection():
    async def watched(ended: asyncio.Event) -> float:
        async with watched_turns() as turns:
            await ended.wait()
        return turns.longest

    found = {}
    with edge.served() as served:
        for name, data in _bytes():
            ended = asyncio.Event()
            longest = asyncio.run_coroutine_threadsafe(watched(ended), served.loop)
            # What is refused may be reset while it is still being sent.
            with contextlib.suppress(ConnectionError):
                assert served.exchange(data + LAST).startswith(b"HTTP/1.1 "), name
            served.loop.call_soon_threadsafe(ended.set)
            found[name] = longest.result()
    assert _too_long(found) == {}


def _too_long(longest: dict[str, float]) -> dict[str, float]:
    return {name: seconds for name, seconds in longest.items() if seconds > MOST_SECONDS}


def test_a_turn_that_is_too_long_is_seen():
    """The watch itself: a decoding on the loop, as it was once, is longer than may be."""

    async def decode_on_the_loop() -> float:
        async with watched_turns() as turns:
            json.loads(b"[" + b"[9,9]," * 1_000_000 + b"9]")
        return turns.longest

    assert asyncio.run(decode_on_the_loop()) > MOST_SECONDS
