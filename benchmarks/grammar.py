"""Measures what rows under a JSON schema cost a decode step, and what rows next to them notice.

    make grammar
    make grammar ARGS="--model tiny --rows 8"

As many rows as there are slots decode: none, half or all of them under a schema. Rounds of the
three take turns, and a ratio is of one round's runs. Medians of the rounds: the time between two
steps, and between two tokens of a row under no schema. Compiles in this process; starts no server.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from dataclasses import dataclass
from datetime import date
from pathlib import Path

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(".cache/xla").absolute()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from benchmarks.decode_steps import DecodeRun, Times
from models.demo import ensure as ensure_demo
from server.api.tokenizers.tokenizer import Tokenizer
from server.config.engine_config import EngineConfig
from server.engine.device.model_runner import InFlight, ModelRunner
from server.engine.engine import Engine
from server.grammar.compiler import Compiler
from server.link.frames import Submit, Vocabulary
from server.link.sampling import Grammar, SamplingParams

_PROMPT_TOKENS, _NEW_TOKENS = 32, 96
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

    def times(self, num_constrained: int) -> Times:
        """Of one run, in which the first rows are under the schema."""
        run = DecodeRun(self._runner, self._num_rows)
        for i in range(self._num_rows):
            self._submit(run.engine, i, is_constrained=i < num_constrained)
        return run.measure()

    def _submit(self, engine: Engine[InFlight], i: int, *, is_constrained: bool) -> None:
        grammar = Grammar("json_schema", json.dumps(_SCHEMA)) if is_constrained else None
        params = SamplingParams(
            max_tokens=_NEW_TOKENS, temperature=1.0, seed=i, ignore_eos=True, grammar=grammar
        )
        prompt = [300 + (7 * i + k) % 2000 for k in range(_PROMPT_TOKENS)]
        submit = Submit(request_id=i, prompt_token_ids=prompt, params=params, arrival=0.0)
        matchers = [self._compiler.compile(grammar)] if grammar else []
        engine.receive(1, submit, matchers)


@dataclass(frozen=True, slots=True)
class Case:
    """A run in milliseconds: the median step, and the tokens of the rows under no schema."""

    step: float
    token_p50: float | None
    token_p99: float | None

    @classmethod
    def of(cls, times: Times, num_constrained: int) -> Case:
        free = sorted(
            gap for row, gaps in times.tokens.items() if row >= num_constrained for gap in gaps
        )
        p50, p99 = (free[int(share * len(free))] if free else None for share in (0.5, 0.99))
        return cls(statistics.median(times.steps), p50, p99)


def print_case(name: str, found: list[Case], unconstrained: list[Case]) -> None:
    """A row of the table: medians of the rounds, and the median of their ratios."""
    cells = [_median([case.step for case in found])]
    ratio = statistics.median(a.step / b.step for a, b in zip(found, unconstrained, strict=True))
    cells.append(f"{ratio:.2f}")
    cells += [_median([case.token_p50 for case in found])]
    cells += [_median([case.token_p99 for case in found])]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _median(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.1f} ms" if known else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="demo", help="demo, tiny or a checkpoint's folder")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    embedded = {"demo": ensure_demo, "tiny": lambda: Path("models/tiny/2")}
    find = embedded.get(arguments.model, lambda: Path(arguments.model))
    bench, rows = Bench(find(), arguments.rows), arguments.rows
    print(f"{arguments.model}, {date.today()}, {platform.machine()}, {os.cpu_count()} cores")
    print(
        "| under a schema | step | ratio | token of the others, p50 | p99 |\n|---|---|---|---|---|"
    )
    cases = (0, rows // 2, rows)
    bench.times(rows)
    rounds = [[Case.of(bench.times(case), case) for case in cases] for _ in range(arguments.rounds)]
    for i, case in enumerate(cases):
        found = [each[i] for each in rounds]
        print_case(f"{case} of {rows} rows", found, [each[0] for each in rounds])


if __name__ == "__main__":
    main()
