"""Runs scheduled batches on the device: weights, state and compiled programs of one model.

A batch says of which version it is; the programs are the same for all.

All arrays of the engine are here and none of its policy. `execute` only dispatches; `read` waits.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from models.files import Files, LocalFiles
from models.hf_config import read_config
from models.sharding import make_mesh
from models.version_folder import open_version
from server.config import EngineConfig
from server.engine.baked import BakedCounts, BakedFolder, Compiler
from server.engine.batch import Bucket, empty_slot, needs_slot_state, pack, pack_slot
from server.engine.blueprint import Blueprint, draw_blueprint
from server.engine.kv_kinds import KVKind
from server.engine.link import TokenLogprobs
from server.engine.program import DeviceState, ProgramName, StepOutput
from server.engine.sampler import Logprobs
from server.engine.sequence import LoadedVersion
from server.engine.step import RowResult, ScheduledBatch, ScheduledRow, StepResult
from server.engine.version_loader import CheckpointLoader, tokenizer_sums
from server.engine.weight_sets import WeightSets

type Progress = Callable[[str, float], None]

# XLA compiles one program mostly on one core.
_COMPILE_THREADS = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InFlight:
    """A dispatched step: its batch, its bucket and the arrays it will fill."""

    batch: ScheduledBatch
    bucket: Bucket
    output: StepOutput


class ModelRunner:
    """Made by `build`, ready to serve: every program compiled and run once."""

    def __init__(
        self,
        blueprint: Blueprint,
        version: LoadedVersion,
        weights: WeightSets,
        loader: CheckpointLoader,
    ) -> None:
        self.config, self.sizes, self.mesh = blueprint.config, blueprint.sizes, blueprint.mesh
        self._ladder, self._first = blueprint.ladder, version
        self._weights, self.loader = weights, loader
        self._programs = blueprint.programs()
        self._steps: dict[Bucket, jax.stages.Compiled] = {}
        self._state: DeviceState

    @classmethod
    def build(
        cls,
        checkpoint: Path | Files,
        engine: EngineConfig,
        progress: Progress = lambda detail, fraction: None,
        version: LoadedVersion | None = None,
    ) -> ModelRunner:
        """Load the checkpoint as `version`, allocate the pool, compile and warm every program.

        Raises ConfigError, CheckpointError, MeshError, BackendError or SizeError, each with a
        sentence for the operator.
        """
        files = LocalFiles(checkpoint) if isinstance(checkpoint, Path) else checkpoint
        version = version or LoadedVersion()
        with tempfile.TemporaryDirectory(prefix="antipode-version-") as copy:
            source = open_version(files, Path(copy))
            if not source.is_published:
                _log.warning("%s has no antipode.json: nothing of it is verified", source.place)
            config = read_config(source.copy)
            mesh = make_mesh(config, engine.tensor_parallel_size)
            blueprint = draw_blueprint(config, engine, mesh, _chip_bytes(mesh))
            weights = WeightSets(blueprint)
            weights.load(version, source, progress)
            tokenizer = tokenizer_sums(source.copy)
        loader = CheckpointLoader(weights, tokenizer, engine.swap_host_memory_bytes)
        runner = cls(blueprint, version, weights, loader)
        folder = BakedFolder(Path(engine.baked_dir)) if engine.baked_dir else None
        runner._warm(progress, Compiler(mesh, folder))
        return runner

    @property
    def max_model_len(self) -> int:
        return self.sizes.slot.max_model_len

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self.config.eos_token_ids

    @property
    def kinds(self) -> tuple[KVKind, ...]:
        return self.sizes.kinds

    @property
    def block_size(self) -> int:
        return self.sizes.block_size

    @property
    def max_num_batched_tokens(self) -> int:
        return self._ladder.max_num_batched_tokens

    @property
    def programs(self) -> dict[Bucket, jax.stages.Compiled]:
        """The compiled steps, by bucket."""
        return dict(self._steps)

    def execute(self, batch: ScheduledBatch) -> InFlight:
        """Dispatch one step. All that is needed of the sequences is read before it returns."""
        for row in batch.rows:
            if row.is_admitted and needs_slot_state(row.seq):
                self._state = self._state._replace(
                    sampler=self._set_slot(self._state.sampler, pack_slot(row.seq, self.sizes.slot))
                )
        bucket = self._ladder.choose(batch)
        sizes = self.sizes
        inputs = pack(batch, bucket, len(sizes.kinds), sizes.table_size, sizes.scratch_slot)
        leaves = self._weights[batch.version]
        output, self._state = self._steps[bucket](leaves, self._state, inputs)
        return InFlight(batch, bucket, output)

    def read(self, in_flight: InFlight) -> StepResult:
        """Wait for a step and bring to the host what its rows asked for."""
        batch, output = in_flight.batch, in_flight.output
        tokens, finite = jax.device_get((output.drawn.token_S, output.drawn.is_finite_S))
        wants_logprobs = any(row.seq.params.num_logprobs >= 0 for row in batch.rows)
        logprobs = jax.device_get(output.drawn.logprobs) if wants_logprobs else None
        wants_prompt = any(row.seq.params.num_prompt_logprobs >= 0 for row in batch.rows)
        prompt = jax.device_get(output.prompt) if wants_prompt and output.prompt else None
        rows, start = [], 0
        for i, row in enumerate(batch.rows):
            end = start + row.num_scheduled_tokens
            rows.append(
                RowResult(
                    token_id=int(tokens[i]) if row.is_sampling else None,
                    logprobs=_row_logprobs(logprobs, i, row) if logprobs else None,
                    prompt_logprobs=_prompt_logprobs(prompt, start, row) if prompt else (),
                    is_finite=bool(finite[i]) or not row.is_sampling,
                )
            )
            start = end
        return StepResult(tuple(rows), in_flight.bucket.num_tokens)

    def _warm(self, progress: Progress, compiler: Compiler) -> None:
        """Compile every program, several at once, and run each once, on padding."""
        buckets: list[ProgramName] = [*sorted(self._ladder.buckets, reverse=True)]
        names = [*buckets, "set_slot", "make_state"]
        compiled: dict[ProgramName, jax.stages.Compiled] = {}
        with ThreadPoolExecutor(_COMPILE_THREADS) as pool:
            running = {pool.submit(self._compile, name, compiler): name for name in names}
            for i, done in enumerate(as_completed(running)):
                compiled[running[done]] = done.result()
                progress(f"compiled {i + 1} of {len(names)} programs", (i + 1) / len(names))
        self._set_slot = compiled.pop("set_slot")
        self._state = compiled.pop("make_state")()
        self._steps = {name: step for name, step in compiled.items() if isinstance(name, Bucket)}
        _log_counts(compiler.counts)
        self._run_once()

    def _compile(self, name: ProgramName, compiler: Compiler) -> jax.stages.Compiled:
        return compiler.compile(name, self._programs.lower(name))

    def _run_once(self) -> None:
        empty = empty_slot(self.sizes.slot, self.sizes.scratch_slot)
        self._state = self._state._replace(sampler=self._set_slot(self._state.sampler, empty))
        for bucket, step in self._steps.items():
            inputs = self.sizes.empty_input(bucket)
            _, self._state = step(self._weights[self._first], self._state, inputs)
        jax.block_until_ready(self._state)


def _chip_bytes(mesh: Mesh) -> int | None:
    """Memory of the smallest of this host's devices, where it is not the host's own."""
    stats = [device.memory_stats() for device in mesh.local_devices]
    return min((s["bytes_limit"] for s in stats if s and "bytes_limit" in s), default=None)


def _log_counts(counts: BakedCounts) -> None:
    if counts.hits + counts.misses:
        _log.info(
            "baked programs: %d loaded, %d compiled, about %.1f s saved",
            counts.hits,
            counts.misses,
            counts.saved_seconds,
        )


def _row_logprobs(logprobs: Logprobs, i: int, row: ScheduledRow) -> TokenLogprobs | None:
    wanted = row.seq.params.num_logprobs
    if not row.is_sampling or wanted < 0:
        return None
    return _token_logprobs(logprobs, i, wanted)


def _prompt_logprobs(prompt: Logprobs, start: int, row: ScheduledRow) -> list[TokenLogprobs | None]:
    """One entry per position of the chunk that has a next prompt token."""
    wanted = row.seq.params.num_prompt_logprobs
    if wanted < 0:
        return []
    last = min(row.end, row.seq.num_prompt_tokens - 1)
    count = max(0, last - row.num_computed_tokens)
    return [_token_logprobs(prompt, start + i, wanted) for i in range(count)]


def _token_logprobs(logprobs: Logprobs, i: int, wanted: int) -> TokenLogprobs:
    ids = np.asarray(logprobs.top_ids[i, :wanted]).tolist()
    values = np.asarray(logprobs.top[i, :wanted]).tolist()
    return TokenLogprobs(float(logprobs.chosen[i]), list(zip(ids, values, strict=True)))
