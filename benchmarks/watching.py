"""Measures what it costs streams that a server is watched: by scrapes of /metrics, and by tracing.

    make watching
    make watching ARGS="--scrapes 1000 --calls 8"
    make watching ARGS="--integers --rounds 0"      on a busy machine

Rounds take turns, A B A B: the same streams without scrapes and next to them, and then on two
servers without tracing and with it. A round's ratio is of its own two halves, because a machine is
not equally busy for long. The receiver of spans throws them away. With `--integers` the scraped
server has a device made of integers, whose step takes 20 ms whatever else runs.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import http.server
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import TracerProvider

from benchmarks.load.loops import closed
from benchmarks.load.stream import Stream
from benchmarks.load.target import Target
from benchmarks.load.workloads import Body
from benchmarks.serving import served
from server.api.access.call import Call
from server.api.access.gatekeeper import Gatekeeper
from server.api.access.work import Work
from server.api.tracing.setup import make_provider
from server.api.tracing.spans import Tracing
from tests.e2e.checkpoints import write_serving_checkpoint
from tests.e2e.servers import FAKE

_TINY = Path("models/tiny/2")
_STREAMS = 4
_PROMPT_TOKENS = 32
# Both models have all of these.
_TOKEN_IDS = range(10, 250)
_API = "server.processes.api"
_SPAN_ROUNDS, _SPAN_CALLS = 6, 1000
_WORK = Work(
    model="tiny",
    version="1",
    submitted=0.0,
    begun=0.0,
    first_token=0.0,
    ended=0.0,
    num_prompt_tokens=32,
    num_generated_tokens=128,
    finish_reasons=("length",),
)


def bodies(model: str, num_tokens: int) -> Iterator[Body]:
    while True:
        yield {
            "model": model,
            "prompt": random.choices(_TOKEN_IDS, k=_PROMPT_TOKENS),
            "max_tokens": num_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }


def served_integers(folder: Path) -> Target:
    checkpoint = write_serving_checkpoint(folder / "integers" / "1")
    command = f"env FAKE_STEP_SECONDS=0.02 {sys.executable} -m {FAKE} serve --model {checkpoint}"
    command += " --host 127.0.0.1 --http-port {port} --grpc-port 0 --num-blocks 4096"
    command += " --max-num-seqs 32 --max-num-batched-tokens 256"
    return Target("integers", command, folder / "log")


def streamed(target: Target, num_tokens: int, calls: int = _STREAMS) -> list[Stream]:
    return asyncio.run(closed(target.url, bodies(target.model, num_tokens), _STREAMS, calls))


def inter_token(streams: list[Stream]) -> float:
    """The median of the streams' mean times: parts that come together leave the mean alone."""
    return statistics.median(stream.tpot or 0.0 for stream in streams)


@contextmanager
def scraped(url: str, per_second: float) -> Iterator[list[float]]:
    """Scrape in a process of its own; the list has each scrape's seconds at the end."""
    found: list[float] = []
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_scrape, args=(url, per_second, theirs), daemon=True)
    process.start()
    ours.recv()
    try:
        yield found
    finally:
        ours.send(None)
        found += ours.recv()
        process.join()


def _scrape(url: str, per_second: float, pipe: Connection) -> None:
    """As a picker does: one kept connection, no Accept header, at an even rate."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.connect()
    pipe.send(None)
    seconds: list[float] = []
    begin = time.perf_counter()
    while not pipe.poll(max(0.0, begin + len(seconds) / per_second - time.perf_counter())):
        start = time.perf_counter()
        connection.request("GET", "/metrics")
        connection.getresponse().read()
        seconds.append(time.perf_counter() - start)
    pipe.send(seconds)


def measure_scrapes(target: Target, options: argparse.Namespace) -> None:
    streamed(target, options.tokens)
    scrapes: list[float] = []
    ratios = []
    while len(scrapes) < options.scrapes:
        alone = inter_token(streamed(target, options.tokens, options.calls))
        with scraped(target.url, options.rate) as seconds:
            next_to = inter_token(streamed(target, options.tokens, options.calls))
        scrapes += seconds
        ratios.append(next_to / alone)
        print(f"  round {len(ratios)}: {ratios[-1]:.3f}, {len(seconds)} scrapes", flush=True)
    print(f"{target.model}: {len(scrapes)} scrapes next to {_STREAMS} streams")
    print(f"  median {statistics.median(scrapes) * 1e3:.2f} ms, p99 {_p99(scrapes) * 1e3:.2f} ms")
    print(f"  time between tokens, with scrapes / without: {_spread(ratios)}")


class _Receiver(http.server.BaseHTTPRequestHandler):
    """Takes spans by OTLP over HTTP, and keeps none."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def receiver() -> Iterator[str]:
    """Where spans may be sent, in a process of its own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    process = multiprocessing.Process(target=server.serve_forever, daemon=True)
    process.start()
    yield f"http://127.0.0.1:{server.server_port}"
    process.terminate()


def measure_tracing(options: argparse.Namespace) -> None:
    with receiver() as url:
        tracing = served(_TINY, "--tracing", "true", OTEL_EXPORTER_OTLP_ENDPOINT=url)
        with served(_TINY) as without, tracing as traced:
            for target in (without, traced):
                streamed(target, options.tokens)
            rounds = [
                (_half(without, options), _half(traced, options)) for _ in range(options.rounds)
            ]
    tokens = options.tokens * options.calls
    off, on = (
        statistics.median(half[0] for half in halves) for halves in zip(*rounds, strict=True)
    )
    print(f"tracing, {options.calls} calls of {options.tokens} tokens, {_STREAMS} at a time:")
    print(f"  CPU of the API process per token: {off / tokens * 1e6:.0f} us without")
    print(f"  and per call: {(on - off) / options.calls * 1e6:.0f} us more with tracing")
    for name, place in (("CPU of the API process", 0), ("time between tokens", 1)):
        ratios = [traced[place] / plain[place] for plain, traced in rounds]
        print(f"  {name}, with tracing / without: {_spread(ratios)}")


def measure_spans() -> None:
    """What a call costs the gatekeeper, without a server around it, its spans' export included."""
    with receiver() as url:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
        provider = make_provider("benchmark")
        keepers = (Gatekeeper(), Gatekeeper(start_span=Tracing(provider).start))
        rounds = [[_cpu_of_calls(each, provider) for each in keepers] for _ in range(_SPAN_ROUNDS)]
    off, on = (statistics.median(side) * 1e6 for side in zip(*rounds, strict=True))
    print(f"CPU of a call's record: {off:.0f} us without its five spans, {on:.0f} us with them")


def _cpu_of_calls(gatekeeper: Gatekeeper, provider: TracerProvider) -> float:
    """Seconds of all threads per call."""
    begin = time.process_time()
    for number in range(_SPAN_CALLS):
        call = Call(method="POST", path="/v1/completions", client="127.0.0.1")
        gatekeeper.begin(call, {})
        if call.span is not None:
            call.span.record("chat", _WORK)
        call.status = 200
        gatekeeper.end(call)
        # The queue of spans has an end.
        if number % 100 == 0:
            provider.force_flush()
    return (time.process_time() - begin) / _SPAN_CALLS


def _half(target: Target, options: argparse.Namespace) -> tuple[float, float]:
    """CPU seconds of the API process, and the time between tokens."""
    before = target.cpu_seconds(_API)
    streams = streamed(target, options.tokens, options.calls)
    after = target.cpu_seconds(_API)
    assert before is not None
    assert after is not None
    return after - before, inter_token(streams)


def _spread(ratios: list[float]) -> str:
    middle, least, greatest = statistics.median(ratios), min(ratios), max(ratios)
    return f"{middle:.3f} ({least:.3f} to {greatest:.3f}), {len(ratios)} rounds"


def _p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scrapes", type=int, default=10_000, help="0 measures only tracing")
    parser.add_argument("--rate", type=float, default=100.0, help="scrapes per second")
    parser.add_argument("--integers", action="store_true", help="scrape a server without a device")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=8, help="of tracing; 0 leaves it out")
    parser.add_argument("--calls", type=int, default=32, help="calls of each half of such a round")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{date.today()}, {platform.machine()}, {cores} cores", flush=True)
    if options.scrapes:
        with tempfile.TemporaryDirectory() as folder:
            scraped_server = served_integers(Path(folder)) if options.integers else served(_TINY)
            with scraped_server as target:
                measure_scrapes(target, options)
    if options.rounds:
        measure_spans()
        measure_tracing(options)


if __name__ == "__main__":
    main()
