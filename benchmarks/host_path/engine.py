"""The engine process with the paced device in place of a model. STEP_SECONDS is its step."""

from __future__ import annotations

import os
import sys

from benchmarks.host_path.device import PacedRunner
from server.config.engine_config import EngineConfig
from server.engine.policy.blocks.layer_kinds import KVKind
from server.processes.engine.build import BuildListener, Built
from server.processes.engine.run import run_engine_process
from tests.engine.fakes import FakeLoader


def build(config: EngineConfig, listener: BuildListener) -> Built:
    listener.on_phase("weights")
    runner = PacedRunner(
        kinds=(KVKind(None, config.num_blocks),),
        block_size=config.block_size,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=config.max_model_len,
        step_seconds=float(os.environ["STEP_SECONDS"]),
    )
    return Built(runner, FakeLoader())


if __name__ == "__main__":
    sys.exit(run_engine_process(build))
