"""Sends a running server the largest requests it allows, and measures what probes see meanwhile.

    antipode serve --model tiny &
    make bench-edge ARGS="--http 127.0.0.1:8000 --grpc 127.0.0.1:9000 --pid PID"

A probe asks for /livez every 20 ms on a kept connection while each request runs, one request after
another and then eight at once. Printed: the answer's status, its time, the worst probe, and the
resident memory of the API process `--pid` (a child of the server) before, at most, and after.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import http.client
import json
import multiprocessing
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import httpx

from server.pb.antipode.v1 import generation_pb2 as pb

_BODY_BYTES = (8 << 20) - 64
_PROBE_PERIOD_SECONDS = 0.02
_AT_ONCE = 8
# Other load on a machine only adds, so the least of several worst probes is the server's own.
_REPEATS = 3
# The server gives memory back a second after a large request.
_SETTLE_SECONDS = 1.5
_METHODS = "/antipode.v1.Generation/"

type Send = Callable[[], Awaitable[str]]


class Watch:
    """The probe, in a process of its own, and the memory, from the last `restart` on."""

    def __init__(self, address: str, pid: int | None) -> None:
        self._pid = pid
        self._worst = multiprocessing.Value("d", 0.0)
        process = multiprocessing.Process(target=_probe, args=(address, self._worst), daemon=True)
        process.start()
        self.restart()

    def restart(self) -> None:
        self._worst.value, self.most_mib = 0.0, self.mib()

    @property
    def worst(self) -> float:
        return self._worst.value

    def mib(self) -> int:
        if self._pid is None:
            return 0
        pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
        return pages * 4096 >> 20

    async def run(self) -> None:
        while True:
            self.most_mib = max(self.most_mib, self.mib())
            await asyncio.sleep(_PROBE_PERIOD_SECONDS)


def _probe(address: str, worst: Any) -> None:
    """Ask for /livez for ever; `worst` is the longest answer's seconds."""
    connection = http.client.HTTPConnection(address)
    while True:
        begin = time.perf_counter()
        connection.request("GET", "/livez")
        connection.getresponse().read()
        worst.value = max(worst.value, time.perf_counter() - begin)
        time.sleep(_PROBE_PERIOD_SECONDS)


def bodies() -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    """Name, path, body and further headers of each HTTP request, each as large as a body may be."""
    for path in ("/tokenize", "/v1/completions"):
        for name, text in _texts().items():
            yield f"{path} {name}", path, _json(prompt=text, max_tokens=1), {}
    for path, samples in _samples().items():
        for name, body in samples.items():
            yield f"{path} {name}", path, body, {}
    compressed = {"content-encoding": "gzip"}
    words = gzip.compress(_json(prompt=_words()[:-99]), 1)
    yield "/v1/completions gzip", "/v1/completions", words, compressed
    bomb = gzip.compress(b" " * (1 << 28), 1)
    yield "/v1/completions gzip of 256 MiB", "/v1/completions", bomb, compressed


def _samples() -> dict[str, dict[str, bytes]]:
    """By path: bodies of many values."""
    message = b'{"role":"user","content":""}'
    biases = ",".join(f'"{number}":1' for number in range(600_000))
    long: dict[str, Any] = {"prompt": [9] * 900, "max_tokens": 1, "prompt_logprobs": 20}
    return {
        "/tokenize": {"names": _json(prompt="ab " * 300_000, return_token_strs=True)},
        "/detokenize": {
            "as many as may be": _list(b'{"tokens":[', b"99", 3 << 20),
            "long list": _list(b'{"tokens":[', b"9"),
        },
        "/v1/completions": {
            "list of ids": _list(b'{"prompt":[', b"9"),
            "list of lists": _list(b'{"prompt":[', b"[9,9]"),
            "as many lists as may be": _list(b'{"prompt":[', b"[9]", 39_000),
            "stop strings": _list(b'{"prompt":"x","stop":[', b'"a"'),
            "logit_bias": f'{{"prompt":"x","logit_bias":{{{biases}}}}}'.encode(),
            "nesting": b"[" * _BODY_BYTES,
            "unknown field": _list(b'{"prompt":"x","f":[', b"[]"),
            "prompt_logprobs": _json(**long),
            "echo with logprobs": _json(**long, echo=True, logprobs=20, stream=True),
        },
        "/v1/chat/completions": {
            "messages": _list(b'{"messages":[', message),
            "as many messages as may be": _list(b'{"messages":[', message, 90_000),
            "long message": _json(messages=[{"role": "user", "content": _words()[:-99]}]),
        },
    }


def messages() -> Iterator[tuple[str, str, bytes]]:
    """Name, method and bytes of each gRPC request."""
    for name, text in _texts().items():
        yield f"gRPC tokenize {name}", "Tokenize", pb.TokenizeRequest(text=text).SerializeToString()
    ids = [9] * (_BODY_BYTES - 100)
    yield "gRPC detokenize", "Detokenize", pb.DetokenizeRequest(token_ids=ids).SerializeToString()
    few = pb.DetokenizeRequest(token_ids=ids[: 1 << 20]).SerializeToString()
    yield "gRPC detokenize most", "Detokenize", few
    prompt = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids)).SerializeToString()
    yield "gRPC prompt of ids", "Generate", prompt
    yield "gRPC prompt", "Generate", pb.GenerateRequest(text=_words()).SerializeToString()
    inner = b"\x0a\x00" * (_BODY_BYTES // 2)
    chat = pb.GenerateRequest(chat=pb.Chat()).SerializeToString()[:1]
    yield "gRPC messages", "Generate", chat + _varint(len(inner)) + inner
    stop = pb.GenerateRequest(sampling=pb.Sampling(stop_token_ids=ids), text="x")
    yield "gRPC stop_token_ids", "Generate", stop.SerializeToString()


def _words() -> str:
    return "ab " * (_BODY_BYTES // 3)


def _texts() -> dict[str, str]:
    """The longest text, and a mebibyte each of what tokenizers find hard."""
    size = 1 << 20
    return {
        "words": _words()[:-99],
        "one letter": "a" * size,
        "digits": "0123456789" * (size // 10),
        "no spaces": "".join(chr(97 + number * number % 26) for number in range(size)),
        "newlines": "\n" * size,
    }


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def _list(begin: bytes, entry: bytes, size: int = _BODY_BYTES - 200) -> bytes:
    """A JSON object whose only list holds `entry` as often as `size` bytes allow."""
    return begin + b",".join([entry] * (size // (len(entry) + 1))) + b"]}"


def _varint(number: int) -> bytes:
    data = b""
    while number > 0x7F:
        data, number = data + bytes([number & 0x7F | 0x80]), number >> 7
    return data + bytes([number])


def http_sender(client: httpx.AsyncClient, path: str, body: bytes, headers: dict[str, str]) -> Send:
    async def send() -> str:
        headers_sent = {"content-type": "application/json", **headers}
        response = await client.post(path, content=body, headers=headers_sent)
        return str(response.status_code)

    return send


def grpc_sender(channel: grpc.aio.Channel, method: str, data: bytes) -> Send:
    async def send() -> str:
        try:
            # It takes and gives bytes; its types say Never where no serializer is named.
            stream = cast(Any, channel.unary_stream(_METHODS + method))
            async for _ in stream(data):
                pass
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    return send


@asynccontextmanager
async def watched(watch: Watch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()


async def measure(watch: Watch, name: str, send: Send, at_once: int) -> None:
    before, worsts = watch.mib(), []
    for _ in range(_REPEATS):
        watch.restart()
        begin = time.perf_counter()
        statuses = await asyncio.gather(*(send() for _ in range(at_once)))
        took = time.perf_counter() - begin
        await asyncio.sleep(_SETTLE_SECONDS)
        worsts.append(watch.worst)
    worst = min(worsts)
    memory = f"{before} / {watch.most_mib} / {watch.mib()}"
    print(
        f"| {name} | {'/'.join(sorted(set(statuses)))} | {took:.2f} |"
        f" {worst * 1e3:.0f} | {memory} |",
        flush=True,
    )


async def run(arguments: argparse.Namespace) -> None:
    watch = Watch(arguments.http, arguments.pid)
    base_url = f"http://{arguments.http}"
    async with (
        httpx.AsyncClient(base_url=base_url, timeout=300) as client,
        grpc.aio.insecure_channel(arguments.grpc, [("grpc.max_receive_message_length", -1)]) as c,
        watched(watch),
    ):
        senders = [
            (name, http_sender(client, path, body, headers))
            for name, path, body, headers in bodies()
        ]
        senders += [(name, grpc_sender(c, method, data)) for name, method, data in messages()]
        print("| request | status | s | worst /livez, ms | MiB before / most / after |")
        print("|---|---|---|---|---|")
        await measure(watch, "nothing", lambda: asyncio.sleep(3, "-"), 1)
        for at_once in arguments.at_once:
            for name, send in senders:
                if arguments.only in name:
                    await measure(watch, f"{at_once} x {name}", send, at_once)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http", default="127.0.0.1:8000")
    parser.add_argument("--grpc", default="127.0.0.1:9000")
    parser.add_argument("--pid", type=int)
    parser.add_argument("--only", default="")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, _AT_ONCE])
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
