"""Commands of the main process on an API process's event loop, and what it reads at its start."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from server.api.requests.generation import Sampling
from server.config.server_config import ServerConfig
from server.processes.api.__main__ import _read_defaults, commands_on


def test_a_command_reaches_the_loop_that_runs():
    told = []

    async def run():
        commands_on(asyncio.get_running_loop(), told.append)("drain")
        await asyncio.sleep(0)

    asyncio.run(run())
    assert told == ["drain"]


def test_a_command_after_the_loops_end_is_no_fault():
    told, loop = [], asyncio.new_event_loop()
    loop.close()
    commands_on(loop, told.append)("stop")
    assert told == []


def test_the_models_own_options_are_read_and_told_unless_an_operator_says_none(tmp_path, caplog):
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_k": 20}))
    with caplog.at_level(logging.INFO):
        read = _read_defaults(tmp_path, ServerConfig())
    assert read == Sampling(temperature=0.6, top_k=20)
    assert "get the model's own temperature 0.6, top_k 20" in caplog.text
    assert _read_defaults(tmp_path, ServerConfig(generation_config="none")) == Sampling()


def test_an_option_out_of_its_range_is_named_with_its_file(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"top_p": 2}')
    with pytest.raises(ValueError, match=r"generation_config.json: top_p must be at least 0"):
        _read_defaults(tmp_path, ServerConfig())
