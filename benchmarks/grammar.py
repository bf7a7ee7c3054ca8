"""Measures what rows under a JSON schema cost a decode step, and what rows next to them notice.

    make grammar
    make grammar ARGS="--model tiny --rows 8"

As many rows as there are slots decode: none, half or all of them under a schema. Rounds of the
three take turns. A cell is the median time between two steps, in milliseconds. Compiles in this
process; starts no server.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(".cache/xla").absolute()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from models.demo import ensure as ensure_demo
from server.api.tokenizers.tokenizer import Tokenizer
from server.config.engine_config import EngineConfig
from server.engine.device.model_runner import ModelRunner
from server.engine.engine import Engine
from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.data_ranks import Ranks
from server.engine.policy.scheduler import Scheduler
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.served_versions import ServedVersions
from server.grammar.compiler import Compiler
from server.link.frames import Submit, Vocabulary
from server.link.sampling import Grammar, SamplingParams
from tests.engine.fakes import FakeObserver

_PROMPT_TOKENS, _NEW_TOKENS = 32, 96
_ROUNDS = 3
# Long enough that no text ends before the measurement does.
_SCHEMA = {
    "type": "array",
    "minItems": 100,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 30},
            "kind": {"enum": ["block", "slot", "step", "batch"]},
            "sizes": {"type": "array", "items": {"type": "integer"}},
            "is_free": {"type": "boolean"},
        },
        "required": ["name", "kind", "sizes", "is_free"],
        "additionalProperties": False,
    },
}


class Bench:
    """A model and a compiler of its vocabulary; every run has an engine of its own."""

    def __init__(self, checkpoint: Path, num_rows: int) -> None:
        self._num_rows = num_rows
        config = EngineConfig(model=str(checkpoint), max_num_seqs=num_rows, kv_cache_bytes=1 << 29)
        self._runner = ModelRunner.build(checkpoint, config)
        tokenizer = Tokenizer.load(checkpoint)
        vocabulary = Vocabulary(
            tokens=list(map(tokenizer.token_bytes, range(tokenizer.vocab_size))),
            special_token_ids=sorted(tokenizer.special_ids),
        )
        runner = self._runner
        self._compiler = Compiler(vocabulary, runner.vocab_size, runner.eos_token_ids)

    def decode_ms(self, num_constrained: int) -> list[float]:
        """The milliseconds between steps while all rows decode."""
        engine = self._engine()
        for i in range(self._num_rows):
            self._submit(engine, i, is_constrained=i < num_constrained)
        return list(self._times(engine))

    def _times(self, engine: Engine[object]) -> Iterator[float]:
        unread, last = engine.step(None), time.perf_counter()
        while unread or engine.load().num_unfinished:
            before = unread
            unread, now = engine.step(unread), time.perf_counter()
            rows = before.batch.rows if before else ()
            if len(rows) == self._num_rows and all(row.is_decode for row in rows):
                yield 1000 * (now - last)
            last = now

    def _engine(self) -> Engine[object]:
        runner = self._runner
        scheduler = Scheduler(
            BlockManager(runner.kinds, runner.block_size),
            max_num_seqs=self._num_rows,
            max_num_batched_tokens=runner.max_num_batched_tokens,
            max_queue_len=self._num_rows,
            max_model_len=runner.max_model_len,
            versions=ServedVersions(LoadedVersion()),
        )
        ranks, observer = Ranks([scheduler]), FakeObserver()
        return Engine(ranks, runner, observer, lambda _, frame: None, eos_token_ids=())

    def _submit(self, engine: Engine[object], i: int, *, is_constrained: bool) -> None:
        grammar = Grammar("json_schema", json.dumps(_SCHEMA)) if is_constrained else None
        params = SamplingParams(
            max_tokens=_NEW_TOKENS, temperature=1.0, seed=i, ignore_eos=True, grammar=grammar
        )
        prompt = [300 + (7 * i + k) % 2000 for k in range(_PROMPT_TOKENS)]
        submit = Submit(request_id=i, prompt_token_ids=prompt, params=params, arrival=0.0)
        matchers = [self._compiler.compile(grammar)] if grammar else []
        engine.receive(1, submit, matchers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="demo", help="demo, tiny or a checkpoint's folder")
    parser.add_argument("--rows", type=int, default=32)
    arguments = parser.parse_args()
    embedded = {"demo": ensure_demo, "tiny": lambda: Path("models/tiny/2")}
    find = embedded.get(arguments.model, lambda: Path(arguments.model))
    bench, rows = Bench(find(), arguments.rows), arguments.rows
    print(f"{arguments.model}, {date.today()}, {platform.machine()}, {os.cpu_count()} cores")
    print(f"| under a schema | {' | '.join(f'round {i + 1}' for i in range(_ROUNDS))} | ratio |")
    print("|---|" + "---|" * (_ROUNDS + 1))
    cases = (0, rows // 2, rows)
    bench.decode_ms(rows)
    rounds = [[statistics.median(bench.decode_ms(case)) for case in cases] for _ in range(_ROUNDS)]
    for i, case in enumerate(cases):
        ratio = statistics.median(each[i] / each[0] for each in rounds)
        cells = " | ".join(f"{each[i]:.1f} ms" for each in rounds)
        print(f"| {case} of {rows} rows | {cells} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
