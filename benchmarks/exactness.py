"""Measures how often a token in bfloat16 depends on what else ran, and what `exact` costs.

    make exactness                                     a model of every family, then the price
    make exactness ARGS="--models tiny --requests 8"
    make exactness ARGS="--only-speculation --dtype float32"

Half of the requests are greedy, half are sampled at temperature 1. Each request runs by itself
first. Then come all requests at once, each request resumed by itself after some of its tokens, and
each request by itself on meshes of several devices. With speculation, requests run by themselves
and four at once; most of what is guessed is what came without it, and some is wrong. A cell has
the share of requests with another token, and the mean position of the first one. Compiles in this
process; starts no server.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Before JAX: the meshes are made of these.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(".cache/xla").absolute()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from tokenizers import Tokenizer

from benchmarks.foresight import Foresight, Tally
from models.demo import ensure as ensure_demo
from models.huggingface.config_file import read_config
from models.sharding import allowed_tensor_sizes
from server.config.engine_config import EngineConfig
from server.engine.device.model_runner import InFlight, ModelRunner
from server.engine.engine import Engine
from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.data_ranks import Ranks
from server.engine.policy.exact_choice import ExactChoice
from server.engine.policy.scheduler import Scheduler
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.served_versions import ServedVersions
from server.engine.policy.step_choice import StepChoice
from server.link import frames as link
from server.link.sampling import SamplingParams
from tests.engine.fakes import FakeObserver
from tests.golden import random_models
from tests.golden.configs import CONFIGS

_TINY, _DEMO = "tiny", "smollm2-135m"
_MODELS = (*CONFIGS, _TINY, _DEMO)
_FAMILIES = (
    "llama3-tied", "qwen2", "qwen3", "mistral-window", "ministral3", "qwen3-moe", "gpt-oss",
    "gemma2", "gemma3", "gemma4", "gemma4-moe",
)  # fmt: skip
_NUM_SLOTS = 32
# The requests that also run by themselves; meshes of one machine's cores are slow.
_NUM_ALONE, _NUM_ON_MESHES = {_DEMO: 8}, 8
_STREAMS = (1, 8, 32)
_PROMPT_TOKENS, _NEW_TOKENS = 64, 64
_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt, how to draw after it, and what another server has drawn already."""

    prompt: list[int]
    params: SamplingParams
    received: tuple[int, ...] = ()


type Tokens = list[list[int]]


class Bench:
    """A model on a mesh of the CPU, behind the engine's own policy."""

    def __init__(self, checkpoint: Path, **settings: Any) -> None:
        defaults: dict[str, Any] = {"dtype": "bfloat16", "tensor_parallel_size": 1}
        self._config = EngineConfig(
            model=str(checkpoint),
            data_parallel_size=1,
            max_num_seqs=_NUM_SLOTS,
            kv_cache_bytes=1 << 29,
            **(defaults | settings),
        )
        self.num_accepted = 0
        self._runner = ModelRunner.build(checkpoint, self._config)

    def run(self, requests: list[Request], foreseen: Tokens | None = None) -> Tokens:
        """The tokens of all requests, which are there at once, on an engine that is new.

        With speculation, `foreseen` are the tokens without.
        """
        frames: list[link.Step] = []
        observer = FakeObserver()
        texts = [each.prompt + more for each, more in zip(requests, foreseen or [], strict=False)]
        engine = self._engine(lambda _, frame: frames.append(frame), observer, texts)
        for i, request in enumerate(requests):
            engine.receive(1, _submit(i, request))
        unread = engine.step(None)
        while unread or engine.load().num_unfinished:
            unread = engine.step(unread)
        tokens: Tokens = [list(request.received) for request in requests]
        for event in (event for frame in frames for event in frame.events):
            if event.error is not None:
                raise SystemExit(f"a request failed: {event.message}")
            tokens[event.request_id] += event.token_ids
        self.num_accepted += sum(num for step in observer.steps for _, num in step.drafts)
        return tokens

    def run_each(self, requests: list[Request]) -> Tokens:
        """The tokens of every request by itself."""
        return [self.run([request])[0] for request in requests]

    def _engine(
        self, send: Callable[[int, link.Step], None], observer: FakeObserver, texts: Tokens
    ) -> Engine[InFlight]:
        runner, config, rooms = self._runner, self._config, self._runner.draft_rooms
        chunk = runner.max_num_batched_tokens if config.exact else 0
        scheduler = Scheduler(
            BlockManager(runner.kinds, runner.block_size, chunk=chunk),
            choice=ExactChoice if config.exact else StepChoice,
            max_num_seqs=_NUM_SLOTS,
            max_num_batched_tokens=runner.max_num_batched_tokens,
            max_queue_len=_NUM_SLOTS,
            max_model_len=runner.max_model_len,
            versions=ServedVersions(LoadedVersion()),
            speculation=Foresight(rooms, config.most_drafts, texts) if texts else None,
        )
        return Engine(Ranks([scheduler]), runner, observer, send, eos_token_ids=())


def _submit(request_id: int, request: Request) -> link.Submit:
    return link.Submit(
        request_id=request_id,
        prompt_token_ids=request.prompt,
        params=request.params,
        received=[list(request.received)] if request.received else [],
        arrival=0.0,
    )


def differences(expected: Tokens, found: Tokens) -> list[int | None]:
    """Where each request's tokens first differ; None where they are the same."""
    return [
        next((i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), None)
        for x, y in zip(expected, found, strict=True)
    ]


def cell(positions: Iterable[int | None]) -> str:
    """The share of requests that differ, and where they first do in the mean."""
    every = list(positions)
    at = [position for position in every if position is not None]
    share = f"{len(at)}/{len(every)}"
    return f"{share} at {statistics.mean(at):.0f}" if at else share


def print_cells(model: str, case: str, expected: Tokens, found: Tokens) -> None:
    """One row: greedy requests are those of even number."""
    positions = differences(expected, found)
    print(f"| {model} | {case} | {cell(positions[::2])} | {cell(positions[1::2])} |", flush=True)


def make_requests(prompts: list[list[int]]) -> list[Request]:
    """Greedy and sampled in turn."""
    return [
        Request(prompt, _params(temperature=float(i % 2), seed=i))
        for i, prompt in enumerate(prompts)
    ]


def _params(temperature: float, seed: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=_NEW_TOKENS, temperature=temperature, seed=seed, ignore_eos=True
    )


def cut(requests: list[Request], tokens: Tokens) -> list[Request]:
    """Every request as it is resumed: the first after 1 token, the next after more."""
    return [
        replace(request, received=tuple(each[: 1 + 13 * i % (_NEW_TOKENS - 1)]))
        for i, (request, each) in enumerate(zip(requests, tokens, strict=True))
    ]


def measure(model: str, checkpoint: Path, requests: list[Request], num_alone: int) -> None:
    """All cases of one model. Only the first `num_alone` requests also run by themselves."""
    compared = requests[:num_alone]
    for exact in (False, True):
        bench, mode = Bench(checkpoint, exact=exact), "exact, " if exact else ""
        alone = bench.run_each(compared)
        together = bench.run(requests)[:num_alone]
        print_cells(model, f"{mode}batch of {len(requests)}", alone, together)
        print_cells(model, f"{mode}resumed", alone, bench.run_each(cut(compared, alone)))
        if exact:
            resumed = cut(compared, alone) + requests[num_alone:]
            found = bench.run(resumed)[:num_alone]
            print_cells(model, f"{mode}resumed in a batch", alone, found)
        else:
            num_meshed = min(_NUM_ON_MESHES, num_alone)
            measure_meshes(model, checkpoint, compared[:num_meshed], alone[:num_meshed])


def measure_speculation(
    model: str, checkpoint: Path, requests: list[Request], dtype: str, tally: Tally
) -> None:
    """Every request with guesses and without, by itself and four at once."""
    expected = Bench(checkpoint, dtype=dtype).run_each(requests)
    bench = Bench(checkpoint, dtype=dtype, speculation="prompt_lookup")
    for count in (1, 4):
        bench.num_accepted, found = 0, []
        for start in range(0, len(requests), count):
            part = slice(start, start + count)
            found += bench.run(requests[part], expected[part])
        total = sum(map(len, found))
        case = (
            f"{dtype}, speculation, {count} at once: {bench.num_accepted} of {total} were guessed"
        )
        print_cells(model, case, expected, found)
        tally.num_tokens += total
        tally.num_guessed += bench.num_accepted
        tally.num_requests += len(found)
        tally.num_turned += sum(at is not None for at in differences(expected, found))


def measure_meshes(model: str, checkpoint: Path, requests: list[Request], expected: Tokens) -> None:
    """Each request by itself on every mesh of several devices that the model allows."""
    for size in allowed_tensor_sizes(read_config(checkpoint), 4)[1:]:
        found = Bench(checkpoint, tensor_parallel_size=size).run_each(requests)
        print_cells(model, f"{size} devices", expected, found)


def measure_price(checkpoint: Path, tokenizer: Tokenizer) -> None:
    """Tokens per second from start to end, prompts included, with `exact` and without."""
    benches = {exact: Bench(checkpoint, exact=exact) for exact in (False, True)}
    print(f"\n{checkpoint.parent.name}, prompts of {_PROMPT_TOKENS} tokens, {_NEW_TOKENS} new ones")
    print("| streams | tok/s | tok/s, exact | ratio |\n|---|---|---|---|")
    for count in _STREAMS:
        prompts = text_prompts(tokenizer, count, lengths=[_PROMPT_TOKENS])
        requests = make_requests(prompts)
        rates = dict.fromkeys(benches, 0.0)
        # In turn, so that what else the machine does meets both; the best of each.
        for exact, bench in (*benches.items(),) * _ROUNDS:
            rates[exact] = max(rates[exact], _rate(bench, requests))
        ratio = rates[True] / rates[False]
        print(f"| {count} | {rates[False]:.1f} | {rates[True]:.1f} | {ratio:.2f} |", flush=True)


def _rate(bench: Bench, requests: list[Request]) -> float:
    start = time.perf_counter()
    bench.run(requests)
    return len(requests) * _NEW_TOKENS / (time.perf_counter() - start)


def text_prompts(
    tokenizer: Tokenizer, count: int, lengths: Iterable[int] | None = None
) -> list[list[int]]:
    """Pieces of this repository's own text, of 8 to 132 tokens unless told."""
    ids = tokenizer.encode(Path("docs/architecture.md").read_text()).ids
    sizes = list(lengths or range(8, 133, 4))
    draw = random.Random(0)
    starts = [draw.randrange(len(ids) - max(sizes)) for _ in range(count)]
    return [ids[start : start + sizes[i % len(sizes)]] for i, start in enumerate(starts)]


def load(model: str, scratch: Path, count: int) -> tuple[Path, list[Request]]:
    """The model's checkpoint, and `count` requests to it."""
    if model in CONFIGS:
        checkpoint = random_models.write(model, scratch / model)
        return checkpoint, make_requests(random_models.prompts(model, count))
    checkpoint = Path("models/tiny/1") if model == _TINY else ensure_demo()
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    return checkpoint, make_requests(text_prompts(tokenizer, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", default=(*_FAMILIES, _TINY, _DEMO), choices=_MODELS)
    parser.add_argument("--requests", type=int, default=_NUM_SLOTS, help="in the batch")
    parser.add_argument("--alone", type=int, default=0, help="compared; 0 is 16, of SmolLM2 8")
    parser.add_argument("--no-price", action="store_true")
    parser.add_argument("--only-speculation", action="store_true")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    arguments = parser.parse_args()
    print("| model | case | greedy | sampled |\n|---|---|---|---|", flush=True)
    tally = Tally()
    with tempfile.TemporaryDirectory() as scratch:
        for model in arguments.models:
            checkpoint, requests = load(model, Path(scratch), arguments.requests)
            num_alone = arguments.alone or _NUM_ALONE.get(model, 16)
            if not arguments.only_speculation:
                measure(model, checkpoint, requests, num_alone)
            compared = requests[:num_alone]
            measure_speculation(model, checkpoint, compared, arguments.dtype, tally)
    print(f"\n{tally}")
    if not arguments.no_price and not arguments.only_speculation:
        demo = ensure_demo()
        measure_price(demo, Tokenizer.from_file(str(demo / "tokenizer.json")))


if __name__ == "__main__":
    main()
