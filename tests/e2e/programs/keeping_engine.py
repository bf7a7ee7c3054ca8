"""The real engine process, except that a follower keeps what it has compiled, as the leader does.

JAX writes to its cache on the leader only, and on CPU no other process finds the leader's entries.
So each follower of every group would compile all programs again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

from server.config.engine_config import EngineConfig
from server.processes.engine import build
from server.processes.engine.run import run_engine_process

prepare = build.prepare_jax


def prepare_to_keep(config: EngineConfig, *listeners: Callable[[], None]) -> None:
    prepare(config, *listeners)
    from jax._src import compiler

    # Asked only whether this process may write.
    assert compiler.distributed.global_state.process_id == 0
    compiler.distributed = SimpleNamespace(global_state=SimpleNamespace(process_id=0))


if __name__ == "__main__":
    build.prepare_jax = prepare_to_keep
    sys.exit(run_engine_process(build.build_model_runner))
