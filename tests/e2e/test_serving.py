from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from server.config.engine_config import EngineConfig
from server.engine.device.model_runner import ModelRunner
from server.processes.engine.process import EngineProcess
from server.versions.served_model import ServedModel
from tests.e2e.clients import Stream, client, read_stream, start_streams
from tests.e2e.protocols import tokens_by_protocol
from tests.e2e.servers import REAL, metric_of, wait_for

# As in test_hosts, whose compiled programs are then read from the cache.
DTYPE = "--dtype=float32"


async def embed(http):
    """The vectors of two texts, one of which takes several steps."""
    response = await http.post("/v1/embeddings", json={"input": ["alpha", "def f(x): " * 40]})
    assert response.status_code == 200, response.text
    return np.array([entry["embedding"] for entry in response.json()["data"]])


def num_accepted(server):
    """Requests that wait, run or have ended."""
    text = server.get("/metrics").text
    return (
        metric_of(text, "antipode_num_requests_waiting")
        + metric_of(text, "antipode_num_requests_running")
        + metric_of(text, "antipode_requests_total", outcome="length")
    )


async def test_a_server_answers_alike_in_every_protocol_and_ends_cleanly_under_load(start):
    """One server for the whole story, because compiling its programs takes a while."""
    server = start(REAL, DTYPE, "--drain-timeout-seconds=120").wait_ready()
    assert server.get("/readyz").status_code == 200

    async with client(server) as http:
        over_http = await read_stream(http, Stream(), prompt="alpha", max_tokens=20)
        assert (len(over_http.token_ids), over_http.finish_reason) == (20, "length")
        options = {"max_tokens": 20, "temperature": 1.0, "seed": 7, "ignore_eos": True}
        found = await tokens_by_protocol(http, server.grpc, "alpha", **options)
        assert found == dict.fromkeys(found, over_http.token_ids)

        streams = await start_streams(http, 48, num_started=8, max_tokens=200)
        # The last are so long that they are still running when the drain begins.
        streams += await start_streams(http, 16, num_started=0, max_tokens=1900)
        await asyncio.to_thread(
            wait_for, lambda: num_accepted(server) == 64 + len(found) + 1, "64 streams"
        )
        cancelled, kept = streams[::2], streams[1::2]
        for _, task in cancelled:
            task.cancel()
        await asyncio.gather(*(task for _, task in cancelled), return_exceptions=True)
        server.terminate()
        assert not any(task.done() for _, task in kept[-8:])
        await asyncio.gather(*(task for _, task in kept))
        for stream, _ in kept:
            assert (stream.error, stream.is_broken, stream.is_done) == (None, False, True)
            assert stream.finish_reason == "length"
        assert [len(stream.token_ids) for stream, _ in kept] == [200] * 24 + [1900] * 8
    assert server.wait_exit() == 0
    assert not [line for line in server.log if line.get("severity") in ("ERROR", "CRITICAL")]


async def test_cancelled_and_finished_streams_leave_no_block_behind(start):
    server = start(REAL, DTYPE).wait_ready()
    async with client(server) as http:
        alone = await embed(http)
        streams = await start_streams(http, 32, num_started=8, max_tokens=100)
        assert np.allclose(await embed(http), alone, atol=1e-5)
        for _, task in streams[::2]:
            task.cancel()
        await asyncio.gather(*(task for _, task in streams), return_exceptions=True)

    def is_free():
        return (
            server.metric("antipode_num_requests_running") == 0
            and server.metric("antipode_num_requests_waiting") == 0
            and server.metric("antipode_kv_cache_usage_ratio") == 0
            and server.metric("antipode_device_busy_ratio") == 0
        )

    await asyncio.to_thread(wait_for, is_free, "all blocks free")
    ended = {
        outcome: server.metric("antipode_requests_total", outcome=outcome)
        for outcome in ("length", "abort")
    }
    assert ended["length"] >= 16
    assert sum(ended.values()) == 32
    assert server.metric("antipode_compilations_total") > 0
    assert server.metric("antipode_compilations_after_ready_total") == 0


@pytest.fixture
def damaged(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "broken" / "1")


def damage(folder, kind):
    weights = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text())
    match kind:
        case "missing shard":
            weights.unlink()
        case "truncated shard":
            weights.write_bytes(weights.read_bytes()[:-1000])
        case "unknown architecture":
            config["architectures"] = ["MambaForCausalLM"]
        case "wrong shapes":
            config["hidden_size"] *= 2
    (folder / "config.json").write_text(json.dumps(config))


async def test_a_checkpoint_that_cannot_be_served_is_one_line_and_code_1(start, damaged):
    damage(damaged, "truncated shard")
    server = start(REAL, model=damaged)
    assert await asyncio.to_thread(server.wait_exit, 60) == 1
    line = server.logged("cannot start")
    assert "model.safetensors" in line["message"]
    assert "exception" not in line


def build_here(config, listener):
    """As the engine process builds, with the JAX of the tests."""
    return ModelRunner.build(Path(config.model), config, listener.on_progress)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing shard", "holds no *.safetensors file"),
        ("unknown architecture", "MambaForCausalLM"),
        ("wrong shapes", "has shape [300, 64], but config.json asks for [300, 128]"),
    ],
)
def test_an_engine_that_cannot_serve_its_checkpoint_says_why_and_ends_with_code_1(
    damaged, tmp_path, caplog, kind, words
):
    damage(damaged, kind)
    model = ServedModel(damaged, "toy", "1")
    engine = EngineProcess(EngineConfig(model=str(damaged)), model, tmp_path / "engine.sock")
    assert engine.run(build_here) == 1
    [line] = [line for line in caplog.records if "cannot start" in line.message]
    assert words in line.message
    assert not line.exc_info
