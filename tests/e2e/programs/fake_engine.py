"""The engine process with a device made of integers: real sockets, threads, signals and frames.

A step takes FAKE_STEP_SECONDS, loading FAKE_LOAD_SECONDS, so that a test can act meanwhile. While
there is a file FAKE_HOLD, no step ends.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from server.config.engine_config import EngineConfig
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.sequences.step import RowResult
from server.processes.engine.build import BuildListener, Built
from server.processes.engine.run import run_engine_process
from tests.engine.fakes import EOS, FakeRunner


@dataclass(slots=True)
class SlowRunner(FakeRunner):
    max_model_len: int = 2048
    vocab_size: int = 260
    eos_token_ids: tuple[int, ...] = (EOS,)
    step_seconds: float = 0.0
    hold: Path | None = None
    draft_rooms = ()  # Nothing verifies drafts.
    num_host_blocks = ()
    is_bidirectional = False
    num_snapshots = None
    readable_image = None

    def read(self, in_flight):
        time.sleep(self.step_seconds)
        while self.hold and self.hold.exists():
            time.sleep(0.01)
        result = FakeRunner.read(self, in_flight)
        return replace(result, rows=tuple(map(_with_hidden_states, result.rows)))


def _with_hidden_states(row: RowResult) -> RowResult:
    """A hidden state of two numbers, 1 and the token: pooled, how many there are and their sum."""
    if not row.pooled:
        return row
    return row._replace(pooled=struct.pack("<2f", len(row.pooled), sum(row.pooled)))


def build(config: EngineConfig, listener: BuildListener) -> Built:
    listener.on_phase("weights")
    listener.on_progress("loading weights", 0.5)
    time.sleep(float(os.environ.get("FAKE_LOAD_SECONDS", "0")))
    runner = SlowRunner(
        kinds=(KVKind(None, config.num_blocks),),
        block_size=config.block_size or 16,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        step_seconds=float(os.environ.get("FAKE_STEP_SECONDS", "0.01")),
        hold=Path(os.environ["FAKE_HOLD"]) if "FAKE_HOLD" in os.environ else None,
    )
    return Built(runner, runner.loader)


if __name__ == "__main__":
    sys.exit(run_engine_process(build))
