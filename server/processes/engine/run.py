"""The life of an engine process: takes the task, serves or follows, and ends with an exit code.

Which runner is built is an argument: the model's own, or a test's.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from server.child_processes import receive_task, watch_commands
from server.config.engine_config import EngineConfig
from server.free_memory import settle_memory
from server.logs import set_up_logging
from server.processes.engine.build import BuildListener, Built, RunnerBuilder
from server.processes.engine.follower import FollowerProcess
from server.processes.engine.process import EngineProcess
from server.slice.host_group import Group, find_group
from server.versions.served_model import find_model


def run_engine_process(build: RunnerBuilder) -> int:
    """The whole life of the process: take the task, serve or follow, and give the exit code."""
    task = receive_task()
    set_up_logging(task.config.server, task.name)
    config = task.config.engine
    group = find_group(config, os.environ)
    if group.is_follower:
        follower = FollowerProcess(config, group)
        watch_commands(follower.command)
        return _end(follower.run(), group)
    process = EngineProcess(config, find_model(config), Path(task.link), task.model_file)
    watch_commands(process.command)
    return _end(process.run(settled(build)), group)


def settled(build: RunnerBuilder) -> RunnerBuilder:
    """The same builder, after which the process's memory is settled: compiling leaves much."""

    def build_and_settle(config: EngineConfig, listener: BuildListener) -> Built:
        built = build(config, listener)
        settle_memory()
        return built

    return build_and_settle


def _end(code: int, group: Group) -> int:
    """One of several hosts exits here: JAX would wait minutes for the others to end with it."""
    if group.is_several:
        logging.shutdown()
        sys.stderr.flush()
        os._exit(code)
    return code
