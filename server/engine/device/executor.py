"""One host's arrays: the weights, state and compiled programs of one model.

The executor sets slots and runs steps as its caller asks, and decides nothing. On a slice of
several hosts, every host has one executor, and all executors get the same calls in the same order.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from models.checkpoint.files import Files
from models.checkpoint.manifest import NAME as MANIFEST
from models.checkpoint.tokenizer_files import tokenizer_sums
from models.checkpoint.version_folder import VersionFolder, open_version
from models.huggingface.config_file import read_config
from server.config.engine_config import EngineConfig
from server.engine.device.adapter_sets import AdapterSets
from server.engine.device.compiling import Compiling, Progress
from server.engine.device.host_blocks import HostBlocks
from server.engine.device.weight_sets import WeightSets
from server.engine.policy.sequences.block_moves import BlockMoves
from server.engine.policy.sequences.loaded_adapter import LoadedAdapter
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.programs.baked import BakedFolder, Compiler
from server.engine.programs.blueprint.blueprint import Blueprint, make_blueprint
from server.engine.programs.blueprint.image_sizes import served_config
from server.engine.programs.blueprint.matrix_dtype import dtype_note
from server.engine.programs.blueprint.mesh_choice import choose_mesh
from server.engine.programs.device_state import DeviceState
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.image_input import ImageInput
from server.engine.programs.inputs.slot_input import SlotInput, empty_slot
from server.engine.programs.inputs.step_input import DrawInput, StepInput
from server.engine.programs.programs import PickSize, ProgramName
from server.engine.programs.sampling.sampler import Drawn
from server.engine.programs.step_output import StepOutput
from server.files.temporary_folders import temporary_folder
from server.free_memory import return_zeros
from server.start_clock import StartPhase

_log = logging.getLogger(__name__)

# From the memory of this host's smallest chip to the memory of the smallest chip of all hosts. It
# returns when every host has called it.
type Agree = Callable[[int | None], int | None]

# Called when a phase of the start begins.
type OnPhase = Callable[[StartPhase], None]


class Executor:
    """`build` makes it ready: every program is compiled and has run once.

    `weights` holds the versions on the device. `tokenizer_sums` are the checksums of the first
    version's tokenizer files. `weights_digest` identifies published weights.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        weights: WeightSets,
        tokenizer_sums: dict[str, str],
        weights_digest: str = "",
    ) -> None:
        self.blueprint, self.weights = blueprint, weights
        self.tokenizer_sums, self.weights_digest = tokenizer_sums, weights_digest
        self._programs = blueprint.programs()
        self._steps: dict[Bucket, jax.stages.Compiled] = {}
        self._picks: dict[int, jax.stages.Compiled] = {}
        self._state: DeviceState
        self.adapters = AdapterSets(blueprint) if blueprint.layout.adapters else None
        self._host_blocks = HostBlocks(blueprint) if blueprint.sizes.num_host_blocks else None
        # The rows of the images of the next step; () where no image is read.
        self._images: Any = ()
        # Of the last step: a draw follows its step before the next one.
        self._logits_SV: jax.Array

    @classmethod
    def build(
        cls,
        files: Files,
        engine: EngineConfig,
        progress: Progress,
        version: LoadedVersion,
        agree: Agree = lambda chip_bytes: chip_bytes,
        on_phase: OnPhase = lambda phase: None,
    ) -> Executor:
        """Load the checkpoint as `version`, allocate the pool, compile and warm up every program.

        Programs need no weights, so they are compiled while the weights are read. `on_phase` hears
        where the start waits.

        Raises ConfigError, CheckpointError, MeshError, BackendError or SizeError, each with a
        sentence for the operator.
        """
        on_phase("weights")
        with temporary_folder("version") as copy:
            source = open_version(files, copy)
            config = served_config(read_config(source.copy), engine)
            chip_bytes = agree(_chip_bytes())
            mesh = choose_mesh(config, engine, jax.devices(), chip_bytes)
            if note := dtype_note(config, engine, jax.devices()[0].platform):
                _log.warning("%s", note)
            blueprint = make_blueprint(config, engine, mesh, chip_bytes)
            weights = WeightSets(blueprint)
            weights.check(source)
            folder = BakedFolder(Path(engine.baked_dir)) if engine.baked_dir else None
            compiling = Compiling(blueprint, Compiler(mesh, folder, blueprint.compiler_options))
            try:
                weights.load(version, source, progress)
            except BaseException:
                compiling.cancel()
                raise
            executor = cls(blueprint, weights, tokenizer_sums(source.copy), _digest(source))
        on_phase("compile")
        executor._take(compiling.wait(progress))
        # A collective would give up on a host that still compiles: all hosts wait for one another.
        on_phase("hosts")
        agree(chip_bytes)
        on_phase("warm_up")
        executor._run_once(version)
        return executor

    @property
    def programs(self) -> dict[Bucket, jax.stages.Compiled]:
        """The compiled steps, by bucket."""
        return dict(self._steps)

    def set_slot(self, slot: SlotInput) -> None:
        """Set the state of a slot that a sequence has just got."""
        self._state = self._state._replace(sampler=self._set_slot(self._state.sampler, slot))

    def step(self, bucket: Bucket, version: LoadedVersion, inputs: StepInput) -> StepOutput:
        """Dispatch a step, without waiting for it."""
        leaves = self.weights[version]
        output: StepOutput
        adapters = () if self.adapters is None else self.adapters.leaves
        images = self._images if self.blueprint.sizes.num_images_in(bucket) else ()
        output, self._logits_SV, self._state = self._steps[bucket](
            leaves, self._state, inputs, adapters, images
        )
        return output

    def encode(self, version: LoadedVersion, inputs: ImageInput) -> None:
        """Make rows of an image of each rank, for the next step; without waiting."""
        self._images = self._encode(self.weights[version], self._images, inputs)

    def place_adapter(self, adapter: LoadedAdapter, number: int) -> None:
        """Put a loaded adapter into a slot, for the steps from now on; slots count from 1."""
        assert self.adapters is not None
        self.adapters.place(adapter, number)

    def move_blocks(self, moves: tuple[BlockMoves, ...]) -> None:
        """Copy KV blocks from and to host memory before the next step, without waiting for steps
        where few are copied."""
        assert self._host_blocks is not None
        self._state = self._state._replace(kv=self._host_blocks.move(self._state.kv, moves))

    def draw(self, num_rows: int, inputs: DrawInput) -> Drawn:
        """Dispatch a draw for rows of the last step, which had `num_rows`; without waiting."""
        drawn: Drawn
        logits_SV = self._picks[num_rows](self._logits_SV, inputs.row_S)
        drawn, sampler = self._draw(self._state.sampler, logits_SV, inputs)
        self._state = self._state._replace(sampler=sampler)
        return drawn

    def _take(self, compiled: dict[ProgramName, jax.stages.Compiled]) -> None:
        ladder = self.blueprint.ladder
        self._set_slot, self._make_state = compiled["set_slot"], compiled["make_state"]
        # The largest first: a first run that lacks memory fails at once.
        self._steps = {bucket: compiled[bucket] for bucket in sorted(ladder.buckets, reverse=True)}
        self._picks = {n: compiled[PickSize(n)] for n in ladder.draw_counts}
        self._draw = compiled["draw"]
        if self.adapters is not None:
            self.adapters.start(compiled["make_adapters"], compiled["set_adapter"])
        if self._host_blocks is not None:
            self._host_blocks.start(compiled["save_blocks"], compiled["restore_blocks"])

        if self.blueprint.sizes.images is not None:
            self._encode, self._images = compiled["encode_image"], compiled["make_images"]()

    def _run_once(self, version: LoadedVersion) -> None:
        """Run every program on padding, in the same order on every host."""
        sizes = self.blueprint.sizes
        self._state = self._make_state()
        if self.blueprint.mesh.devices.flat[0].platform == "cpu":
            _return_zeros(self._state.kv)
        self.set_slot(empty_slot(sizes.slot, 0, sizes.scratch_slot))
        if sizes.images is not None:
            self.encode(version, sizes.empty_image())
        for bucket in self._steps:
            self.step(bucket, version, sizes.empty_input(bucket))
            self.draw(bucket.num_draws, sizes.empty_draw())
        if self._host_blocks is not None:
            self._state = self._state._replace(kv=self._host_blocks.run_once(self._state.kv))
        jax.block_until_ready((self._state, self._images))


def _return_zeros(pools: Any) -> None:
    """Let KV pools of zeros, in the host's memory, take memory block by block as they are used."""
    for pool in jax.block_until_ready(jax.tree.leaves(pools)):
        for shard in pool.addressable_shards:
            return_zeros(shard.data.unsafe_buffer_pointer(), shard.data.nbytes)


def _chip_bytes() -> int | None:
    """The memory of this host's smallest device; None where devices use the host's memory."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    return min((s["bytes_limit"] for s in stats if s and "bytes_limit" in s), default=None)


def _digest(source: VersionFolder) -> str:
    """The SHA-256 of the manifest, which has the checksums of all files; "" without a manifest."""
    if not source.is_published:
        return ""
    return hashlib.sha256((source.copy / MANIFEST).read_bytes()).hexdigest()
