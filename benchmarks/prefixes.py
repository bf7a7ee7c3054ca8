"""Measures the time to the first token of conversations whose KV left the device, on a real server.

    make prefixes
    make prefixes ARGS="--conversations 8 --turns 4"

More conversations than the device's KV pool holds take turns, so each finds the KV of its history
in host memory when it goes on. Right after that, the same history with another question finds it
on the device, and random tokens of the same length find nothing. So each turn of each conversation
gives three times to the first token, and two ratios to the cold one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import httpx

from benchmarks.load.target import Target
from benchmarks.serving import served

_TINY = Path("models/tiny/2")
_TOKEN_IDS = range(300, 3000)
_BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds to the first token after a history of `num_tokens`, and the tokens that were found.

    The last three are pairs: (seconds, cached tokens).
    """

    number: int
    num_tokens: int
    host: tuple[float, int]
    device: tuple[float, int]
    cold: tuple[float, int]


def server_of(options: argparse.Namespace) -> Target:
    """A server whose pool holds two whole conversations, and whose host memory holds all."""
    num_blocks = 2 * options.turns * options.tokens // _BLOCK_SIZE + 16
    pool = ["--num-blocks", str(num_blocks), "--block-size", str(_BLOCK_SIZE)]
    host = ["--prefix-host-bytes", str(options.host_mib << 20)]
    return served(_TINY, "--max-num-seqs", "4", *pool, *host)


class Client:
    """Sends prompts of token ids, one at a time."""

    def __init__(self, http: httpx.AsyncClient, model: str) -> None:
        self._http, self._model = http, model

    async def ask(self, prompt: list[int], max_tokens: int) -> tuple[list[int], float, int]:
        """The answer's tokens, the seconds to the first one, and the cached tokens."""
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        answer: list[int] = []
        start, first, cached = time.perf_counter(), 0.0, 0
        async with self._http.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                tokens = [token for c in event["choices"] for token in c["token_ids"] or ()]
                first = first or (time.perf_counter() - start if tokens else 0.0)
                answer += tokens
                if usage := event.get("usage"):
                    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        return answer, first, cached


async def measure(url: str, model: str, options: argparse.Namespace) -> list[Turn]:
    """All turns of all conversations, in turn, on a server that serves nobody else."""
    source = random.Random(time.time_ns())
    histories: list[list[int]] = [[] for _ in range(options.conversations)]
    turns = []
    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        client = Client(http, model)
        for number in range(1, options.turns + 1):
            for i, history in enumerate(histories):
                question = options.tokens - options.answer

                def words(count: int) -> list[int]:
                    return source.choices(_TOKEN_IDS, k=count)

                prompt = history + words(question)
                answer, *host = await client.ask(prompt, options.answer)
                _, *device = await client.ask(history + words(question), 1)
                _, *cold = await client.ask(words(len(prompt)), 1)
                turns.append(Turn(number, len(history), _pair(host), _pair(device), _pair(cold)))
                histories[i] = prompt + answer
    return turns


def _pair(found: list[float]) -> tuple[float, int]:
    return float(found[0]), int(found[1])


def show(turns: list[Turn]) -> None:
    """One row per turn: medians, and the ratios' medians with the least and the greatest."""
    print("turn history   cold ms  device ms  host ms   device / cold        host / cold     found")
    for number in sorted({turn.number for turn in turns if turn.num_tokens}):
        of_turn = [turn for turn in turns if turn.number == number]
        times = [
            statistics.median(getattr(turn, kind)[0] for turn in of_turn) * 1e3
            for kind in ("cold", "device", "host")
        ]
        ratios = [
            sorted(getattr(turn, kind)[0] / turn.cold[0] for turn in of_turn)
            for kind in ("device", "host")
        ]
        found = min(turn.host[1] for turn in of_turn)
        print(
            f"{number:4d} {of_turn[0].num_tokens:7d} {times[0]:9.1f} {times[1]:10.1f}"
            f" {times[2]:8.1f}   {_spread(ratios[0])}  {_spread(ratios[1])} {found:9d}"
        )


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--conversations", type=int, default=4)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=160, help="question and answer of each turn")
    parser.add_argument("--answer", type=int, default=40, help="tokens of each answer")
    parser.add_argument("--host-mib", type=int, default=1024, help="host memory for prefixes")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{date.today()}, {platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.0f}")
    with server_of(options) as server:
        show(asyncio.run(measure(server.url, _TINY.parent.name, options)))
        text = httpx.get(f"{server.url}/metrics").text
        print(*(s for s in text.splitlines() if s.startswith("antipode_host_prefix")), sep="\n")


if __name__ == "__main__":
    main()
