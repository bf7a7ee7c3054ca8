"""Measures what rows with LoRA adapters cost a whole decode step, head and sampler included.

    make adapters
    make adapters ARGS="--model tiny --rounds 2"

Three cases take turns: a server without slots for adapters, one with slots whose rows name none,
and the same with rows over all adapters. A ratio is of one round's runs. Adapters are random and of
all products. Compiles in this process; starts no server.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(".cache/xla").absolute()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from safetensors.numpy import load_file

from benchmarks.decode_steps import DecodeRun
from models.checkpoint.files import LocalFiles
from models.demo import ensure as ensure_demo
from server.config.engine_config import EngineConfig
from server.engine.device.executor import Executor
from server.engine.device.model_runner import ModelRunner
from server.engine.policy.sequences.loaded_adapter import LoadedAdapter
from server.link.frames import Submit
from server.link.sampling import SamplingParams
from tests.models.adapters import random_adapter, write_adapter

_PROMPT_TOKENS, _NEW_TOKENS = 16, 32


class Bench:
    """A model with slots for `num_adapters` adapters, all of them read; without any if 0."""

    def __init__(self, checkpoint: Path, num_rows: int, num_adapters: int, rank: int) -> None:
        self._num_rows = num_rows
        slots: dict[str, Any] = {}
        if num_adapters:
            slots = {"max_loras": num_adapters, "max_lora_rank": rank}
        config = EngineConfig(
            model=str(checkpoint), max_num_seqs=num_rows, kv_cache_bytes=1 << 29, **slots
        )
        self._runner = ModelRunner.build(checkpoint, config)
        self._adapters = [LoadedAdapter(f"adapter-{i}", "", i) for i in range(1, num_adapters + 1)]
        self._read(checkpoint, rank)

    def step_ms(self, *, with_adapters: bool) -> float:
        """The median time between steps while all rows decode."""
        run = DecodeRun(self._runner, self._num_rows, len(self._adapters))
        for adapter in self._adapters:
            run.engine.adapters.open(adapter)
        for i in range(self._num_rows):
            chosen = self._adapters[i % len(self._adapters)].name if with_adapters else None
            run.engine.receive(1, _request(i, chosen))
        return statistics.median(run.measure().steps)

    def _read(self, checkpoint: Path, rank: int) -> None:
        if not self._adapters:
            return
        executor = self._runner._executor
        assert isinstance(executor, Executor)
        assert executor.adapters is not None
        files = checkpoint.glob("*.safetensors")
        tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
        for seed, each in enumerate(self._adapters):
            with tempfile.TemporaryDirectory() as place:
                made = write_adapter(Path(place), random_adapter(tensors, rank, seed), rank)
                executor.adapters.keep(each, executor.adapters.read(LocalFiles(made)))


def _request(i: int, adapter: str | None) -> Submit:
    params = SamplingParams(max_tokens=_NEW_TOKENS, temperature=1.0, seed=i, ignore_eos=True)
    prompt = [300 + (7 * i + k) % 2000 for k in range(_PROMPT_TOKENS)]
    return Submit(
        request_id=i, prompt_token_ids=prompt, params=params, adapter=adapter, arrival=0.0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="demo", help="demo, tiny or a checkpoint's folder")
    for name, default in (("rows", 32), ("adapters", 8), ("rank", 16), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    embedded = {"demo": ensure_demo, "tiny": lambda: Path("models/tiny/2")}
    checkpoint = embedded.get(chosen.model, lambda: Path(chosen.model))()
    print(f"{chosen.model}, {date.today()}, {platform.machine()}, {os.cpu_count()} cores")
    plain = Bench(checkpoint, chosen.rows, 0, chosen.rank)
    slotted = Bench(checkpoint, chosen.rows, chosen.adapters, chosen.rank)
    runs = {
        "no slots": lambda: plain.step_ms(with_adapters=False),
        f"{chosen.adapters} slots, no row names one": lambda: slotted.step_ms(with_adapters=False),
        f"{chosen.rows} rows over {chosen.adapters} adapters": lambda: slotted.step_ms(
            with_adapters=True
        ),
    }
    for run in runs.values():
        run()
    rounds = [[run() for run in runs.values()] for _ in range(chosen.rounds)]
    print(f"| rank {chosen.rank} | step | ratio | least to greatest |\n|---|---|---|---|")
    for i, name in enumerate(runs):
        step = statistics.median(each[i] for each in rounds)
        ratios = [each[i] / each[0] for each in rounds]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"| {name} | {step:.1f} ms | {statistics.median(ratios):.2f} | {spread} |")


if __name__ == "__main__":
    main()
