"""Builds the step loop and its policy for a runner, and says what the server then offers.

One scheduler for each data rank, with the sizes that the runner has. Knows no sockets and
starts no thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from server.config.engine_config import EngineConfig
from server.engine.engine import Engine
from server.engine.observer import Observer
from server.engine.policy.adapter_slots import AdapterSlots
from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.blocks.snapshots import snapshots
from server.engine.policy.data_ranks import Ranks
from server.engine.policy.exact_choice import ExactChoice
from server.engine.policy.image_admission import ImageLimits
from server.engine.policy.scheduler import Scheduler
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.served_versions import ServedVersions
from server.engine.policy.speculation import speculation
from server.engine.policy.step_choice import StepChoice
from server.engine.policy.whole_prompt_choice import WholePromptChoice
from server.link.frames import EngineInfo, Step
from server.processes.engine.build import ServingRunner
from server.start_clock import StartClock
from server.versions.served_model import ServedModel

_log = logging.getLogger(__name__)


def build_engine(
    config: EngineConfig,
    model: ServedModel,
    runner: ServingRunner,
    *,
    observer: Observer,
    send: Callable[[int, Step], None],
) -> Engine[Any]:
    """The step loop over `runner`, with a scheduler for each data rank. `send` takes events."""
    versions = ServedVersions(LoadedVersion(model.version))
    adapters, images = AdapterSlots(config.max_loras), runner.readable_image
    schedulers = [
        Scheduler(
            BlockManager(
                runner.kinds,
                runner.block_size,
                # What a prefix is computed to depends on what follows it.
                prefix_caching=config.prefix_caching and not runner.is_bidirectional,
                chunk=runner.max_num_batched_tokens if config.exact else 0,
                num_host_blocks=runner.num_host_blocks,
                snapshots=snapshots(config.max_num_seqs, runner.num_snapshots),
            ),
            choice=_choice_of(runner, config),
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=runner.max_num_batched_tokens,
            max_queue_len=-(-config.max_queue_len // runner.num_ranks),
            max_model_len=runner.max_model_len,
            versions=versions,
            adapters=adapters,
            image_tokens=images.num_tokens if images else 0,
            speculation=speculation(runner.draft_rooms, config.most_drafts),
        )
        for _ in range(runner.num_ranks)
    ]
    return Engine(
        Ranks(schedulers),
        runner,
        observer,
        send,
        eos_token_ids=runner.eos_token_ids,
        images=ImageLimits(images, config.max_images_per_prompt),
        overlap=config.overlap,
    )


def _choice_of(runner: ServingRunner, config: EngineConfig) -> type[StepChoice]:
    if runner.is_bidirectional:
        return WholePromptChoice
    return ExactChoice if config.exact else StepChoice


def engine_info(model: ServedModel, runner: ServingRunner, config: EngineConfig) -> EngineInfo:
    return EngineInfo(
        model=model.name,
        version=model.version,
        max_model_len=runner.max_model_len,
        vocab_size=runner.vocab_size,
        eos_token_ids=runner.eos_token_ids,
        max_num_seqs=config.max_num_seqs,
        is_exact=config.exact,
        max_loras=config.max_loras,
        max_images=config.max_images_per_prompt if runner.readable_image is not None else 0,
    )


def log_ready(runner: ServingRunner, start: StartClock, max_num_seqs: int) -> None:
    _log.info(
        "loaded and warm in %s",
        start.summary(),
        extra={
            "start_seconds": {name: round(s, 2) for name, s in start.seconds().items()},
            "max_model_len": runner.max_model_len,
            "data_ranks": runner.num_ranks,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": runner.max_num_batched_tokens,
            "num_blocks": [kind.num_blocks for kind in runner.kinds],
            "block_size": runner.block_size,
        },
    )
