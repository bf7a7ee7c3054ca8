"""Compares one server process with several that act as the hosts of a slice, then kills one host.

    make hosts                      models/tiny on two devices, then on two and four hosts

The devices are simulated CPU devices that share this machine's cores, and the network is loopback.
So this measures the cost of several processes, not the gain of a slice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import httpx

from tests.e2e.servers import REAL, RunningServer, first_free_port, is_running, wait_for

MODEL = "models/tiny/2"
NUM_TOKENS = 200
FLAGS = (
    f"--model={MODEL}",
    "--dtype=float32",
    "--max-num-seqs=8",
    "--max-num-batched-tokens=64",
    "--data-parallel-size=1",
    "--max-model-len=512",
    "--num-blocks=512",
)


@contextmanager
def started(hosts: int, devices: int) -> Iterator[list[RunningServer]]:
    """The servers of a slice, ready, each with this many devices."""
    environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    names = ",".join([f"127.0.0.1:{first_free_port(2)}", *["127.0.0.1"] * (hosts - 1)])
    with tempfile.TemporaryDirectory() as folder:
        servers = []
        for index in range(hosts):
            group = () if hosts == 1 else (f"--hosts={names}", f"--host-index={index}")
            log = Path(folder) / f"{index}.log"
            servers.append(RunningServer(log, REAL, *FLAGS, *group, **environment))
        try:
            servers[0].wait_ready()
            yield servers
        finally:
            for server in servers:
                with contextlib.suppress(ProcessLookupError):
                    server.terminate()
            for server in servers:
                server.wait_exit(60)


async def tokens_per_second(url: str, streams: int) -> float:
    """Tokens per second of this many concurrent greedy streams."""
    body = {"model": "tiny", "prompt": "def main(", "max_tokens": NUM_TOKENS, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:
        start = time.perf_counter()
        answers = await asyncio.gather(
            *(client.post("/v1/completions", json=body) for _ in range(streams))
        )
    for answer in answers:
        answer.raise_for_status()
    return streams * NUM_TOKENS / (time.perf_counter() - start)


def measure(hosts: int, devices: int, repeats: int) -> dict[int, float]:
    """Median tokens per second by number of streams."""
    with started(hosts, devices) as (leader, *_):
        asyncio.run(tokens_per_second(leader.http, 1))
        return {
            streams: statistics.median(
                asyncio.run(tokens_per_second(leader.http, streams)) for _ in range(repeats)
            )
            for streams in (1, 8)
        }


def seconds_to_end(victim: int) -> float:
    """Seconds from kill -9 of one host's engine until no process of any host is left."""
    with started(2, 1) as servers:
        pids = [pid for server in servers for pid in (server.pid, *server.children())]
        start = time.perf_counter()
        os.kill(servers[victim].engine(), signal.SIGKILL)
        wait_for(lambda: not any(_runs(pid, servers) for pid in pids), "the end", 60)
        return time.perf_counter() - start


def _runs(pid: int, servers: list[RunningServer]) -> bool:
    for server in servers:
        server.process.poll()
    return is_running(pid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(f"{date.today()}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores, {MODEL}")
    print("hosts  devices each  tok/s, 1 stream  8 streams  ratio to one process")
    alone: dict[int, float] = {}
    for hosts, devices in ((1, 2), (2, 1), (1, 4), (4, 1)):
        rates = measure(hosts, devices, repeats)
        if hosts == 1:
            alone = rates
        ratios = "  ".join(f"{rates[n] / alone[n]:.2f}" for n in rates)
        print(f"{hosts:5d} {devices:13d} {rates[1]:16.0f} {rates[8]:10.0f}  {ratios}", flush=True)
    for victim, name in enumerate(("leader", "follower")):
        seconds = [seconds_to_end(victim) for _ in range(repeats)]
        shown = ", ".join(f"{each:.2f}" for each in seconds)
        print(f"kill -9 of the {name}'s engine: every process gone after {shown} s", flush=True)


if __name__ == "__main__":
    main()
