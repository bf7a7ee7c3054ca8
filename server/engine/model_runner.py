"""Runs scheduled batches on the device: weights, state and compiled programs of one model.

All arrays of the engine are here and none of its policy. `execute` only dispatches; `read` waits.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from models.attention.choice import choose_backend
from models.calibration import calibrate
from models.checkpoint import Checkpoint
from models.config import ModelConfig
from models.hf_config import read_config
from models.layout import DecoderLayout
from models.sharding import make_mesh, tensor_size
from models.weights import abstract_decoder, leaf_shardings, load_leaves
from server.config import EngineConfig
from server.engine.batch import (
    Bucket,
    Ladder,
    SlotSizes,
    empty_slot,
    needs_slot_state,
    pack,
    pack_slot,
)
from server.engine.kv_kinds import KVKind
from server.engine.link import MAX_LOGIT_BIASES, MAX_STOP_TOKEN_IDS, TokenLogprobs
from server.engine.program import DeviceState, Programs, StateSizes, StepOutput
from server.engine.sampler import Logprobs
from server.engine.step import RowResult, ScheduledBatch, ScheduledRow, StepResult

type Progress = Callable[[str, float], None]

# Where the KV pool's size is given by neither flag nor device: on CPU, host memory is shared.
_CPU_KV_BYTES = 1 << 30
_SMALLEST_MIXED_BUCKET = 32
# XLA compiles one program mostly on one core.
_COMPILE_THREADS = 4
# On CPU a step of 128 tokens is compute-bound already: a larger one only delays the others.
_CPU_TOKEN_BUDGET, _TOKEN_BUDGET = 128, 2048


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
        config: ModelConfig,
        sizes: StateSizes,
        mesh: Mesh,
        ladder: Ladder,
        leaves: list[jax.Array],
        programs: Programs,
    ) -> None:
        self.config, self.sizes, self.mesh = config, sizes, mesh
        self._ladder, self._leaves = ladder, leaves
        self._programs = programs
        self._steps: dict[Bucket, jax.stages.Compiled] = {}
        self._state: DeviceState = programs.make_state()

    @classmethod
    def build(
        cls,
        checkpoint: Path,
        engine: EngineConfig,
        progress: Progress = lambda detail, fraction: None,
    ) -> ModelRunner:
        """Load the checkpoint, allocate the pool, compile and warm every program.

        Raises ConfigError, CheckpointError or MeshError, each with a sentence for the operator.
        """
        config = read_config(checkpoint)
        mesh = make_mesh(config, engine.tensor_parallel_size)
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        layout = choose_layout(config, engine, mesh)
        model = abstract_decoder(config, layout)
        leaves = calibrate(model, load_leaves(model, Checkpoint(checkpoint), mesh, progress), mesh)
        sizes = _state_sizes(config, layout, engine, on_cpu)
        auto_budget = max(_CPU_TOKEN_BUDGET if on_cpu else _TOKEN_BUDGET, 2 * engine.max_num_seqs)
        budget = engine.max_num_batched_tokens or auto_budget
        ladder = Ladder(engine.max_num_seqs, budget, _SMALLEST_MIXED_BUCKET)
        runner = cls(config, sizes, mesh, ladder, leaves, Programs(model, layout, mesh, sizes))
        runner._warm(progress, leaf_shardings(model, mesh))
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
        output, self._state = self._steps[bucket](self._leaves, self._state, inputs)
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

    def _warm(self, progress: Progress, shardings: list[jax.NamedSharding]) -> None:
        """Compile every program of the ladder, several at once, and run each once, on padding."""
        buckets = sorted(self._ladder.buckets, reverse=True)
        with ThreadPoolExecutor(_COMPILE_THREADS) as pool:
            slot = pool.submit(self._programs.compile_set_slot)
            steps = {
                pool.submit(self._programs.compile_step, bucket, shardings): bucket
                for bucket in buckets
            }
            for i, done in enumerate(as_completed(steps)):
                self._steps[steps[done]] = done.result()
                progress(f"compiled {i + 1} of {len(buckets)} programs", (i + 1) / len(buckets))
            self._set_slot = slot.result()
        empty = empty_slot(self.sizes.slot, self.sizes.scratch_slot)
        self._state = self._state._replace(sampler=self._set_slot(self._state.sampler, empty))
        for bucket, step in self._steps.items():
            _, self._state = step(self._leaves, self._state, self.sizes.empty_input(bucket))
        jax.block_until_ready(self._state)


def choose_layout(config: ModelConfig, engine: EngineConfig, mesh: Mesh) -> DecoderLayout:
    """How the model lies on the mesh's devices. Raises BackendError."""
    platform = mesh.devices.flat[0].platform
    on_cpu = platform == "cpu"
    dtype = jnp.dtype(config.dtype if engine.dtype == "auto" else engine.dtype)
    # A CPU computes in float32 in any case; to keep less would only lose digits.
    wide = jnp.dtype(jnp.float32) if on_cpu else dtype
    return DecoderLayout(
        tensor_size=tensor_size(mesh),
        stacked=not on_cpu,
        dtype=dtype,
        activation_dtype=wide,
        kv_dtype=wide if engine.kv_dtype == "auto" else _KV_DTYPES[engine.kv_dtype],
        backend=choose_backend(engine.attention_backend, platform, config, tensor_size(mesh)),
        quantized=engine.weight_dtype == "int8",
    )


_KV_DTYPES = {
    name: jnp.dtype(dtype)
    for name, dtype in (
        ("float32", jnp.float32),
        ("bfloat16", jnp.bfloat16),
        ("int8", jnp.int8),
        ("fp8", jnp.float8_e4m3fn),
    )
}


def _state_sizes(
    config: ModelConfig, layout: DecoderLayout, engine: EngineConfig, on_cpu: bool
) -> StateSizes:
    longest = min(engine.max_model_len or config.max_position, config.max_position)
    token_bytes = 2 * config.num_layers * config.head_dim * layout.kv_dtype.itemsize
    block_bytes = token_bytes * layout.kv_heads(config) * engine.block_size
    num_blocks = engine.num_blocks or _kv_bytes(engine, on_cpu) // block_bytes
    max_stop_ids = MAX_STOP_TOKEN_IDS + len(config.eos_token_ids)
    return StateSizes(
        kinds=tuple(KVKind(window, num_blocks) for window in config.windows),
        block_size=engine.block_size,
        max_num_seqs=engine.max_num_seqs,
        slot=SlotSizes(longest, MAX_LOGIT_BIASES, max_stop_ids),
    )


def _kv_bytes(engine: EngineConfig, on_cpu: bool) -> int:
    """Bytes for the KV pool over all devices, from the flag or from what is free."""
    if engine.kv_cache_bytes:
        return engine.kv_cache_bytes
    if on_cpu:
        return _CPU_KV_BYTES
    stats = [device.memory_stats() for device in jax.local_devices()]
    return sum(
        int(s["bytes_limit"] * engine.hbm_utilization) - s["bytes_in_use"] for s in stats if s
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
