"""Versions of a real model change under load: one server for the whole story."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from antipode import AsyncClient, Choice
from safetensors.numpy import load_file, save_file

from benchmarks.swap import FLAGS, MODEL, TOKEN, connected, run
from models.checkpoint import manifest
from server.api.tokenizers.tokenizer import Tokenizer
from tests.e2e.servers import PAUSED, REAL, wait_for


@pytest.fixture
def config(tmp_path):
    """A model configuration file as a ConfigMap is mounted: behind a symlink that is swapped."""
    return ConfigMap(tmp_path / "mounted")


class ConfigMap:
    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "model.yaml"
        self._count = 0
        folder.mkdir()
        self.write(version="1")
        self.path.symlink_to(Path("..data") / "model.yaml")

    def write(self, text=None, **fields):
        text = text or "".join(
            f"{key}: {value!r}\n"
            for key, value in ({"name": "tiny", "path": str(MODEL)} | fields).items()
        )
        self._count += 1
        data = self.folder / f"..{self._count}"
        data.mkdir()
        (data / "model.yaml").write_text(text)
        link = self.folder / "..data_tmp"
        link.symlink_to(data.name)
        os.replace(link, self.folder / "..data")


@pytest.fixture
def start_swapping(start, tmp_path, config):
    """Start a server that follows the file and has its admin ports open."""
    token = tmp_path / "token"
    token.write_text(TOKEN)

    def start_one(*flags, module=REAL, **environment):
        return start(
            module,
            f"--model-config={config.path}",
            f"--admin-token-file={token}",
            "--admin-port=0",
            "--admin-grpc-port=0",
            *FLAGS,
            *flags,
            **environment,
        )

    return start_one


async def test_versions_change_under_load_and_by_the_file(start_swapping, config):
    server = await asyncio.to_thread(start_swapping().wait_ready)
    async with connected(server) as client:
        seen = await run(client, rounds=1, num_streams=32)
        assert min(seen.answers["1"], seen.answers["2"]) >= 16
        assert not seen.failures
        assert not seen.mixed

        async with forms_begun(server) as forms:
            labels = {"stable": "2", "canary": "1"}
            config.write(version="2", labels=labels, swap_policy="availability")
            await asyncio.to_thread(wait_for, lambda: is_served(server, "2"), "version 2")
            assert set(await asyncio.gather(*forms)) == {"1"}
        await asyncio.to_thread(wait_for, lambda: "tiny@1" in models(server), "the canary")
        canary = await client.over_http(0, "tiny@canary")
        assert canary == await client.over_grpc(0, "tiny@1")
        assert (canary.version, (await client.over_http(0, "tiny")).version) == ("1", "2")

        config.write(text="name: tiny\npath: models/tiny\nversion: '")
        await asyncio.to_thread(wait_for, lambda: not_followed(server), "the complaint")
        assert is_served(server, "2")
        found = await client.admin("GET", "/versions")
        assert "not YAML" in found["config_error"]
    assert server.metric("antipode_compilations_after_ready_total") == 0


@contextlib.asynccontextmanager
async def forms_begun(server):
    """Tasks of texts that have a form and have begun; each gives its version at the end."""
    grammar = {"regex": r"\[((true|false), ){60}null\]"}

    async def read(seed, has_begun):
        stream = api.generate("x", model="tiny", seed=seed, grammar=grammar)
        choice = Choice(index=0)
        async for delta in stream:
            has_begun.set()
            choice.add(delta)
        assert (choice.finish_reason, len(json.loads(choice.text))) == ("stop", 61)
        return stream.start.model_version

    async with AsyncClient(server.http, trust_env=False) as api, asyncio.TaskGroup() as group:
        begun = [asyncio.Event() for _ in range(4)]
        tasks = [group.create_task(read(seed, event)) for seed, event in enumerate(begun)]
        for event in begun:
            await event.wait()
        yield tasks


async def test_what_goes_wrong_leaves_what_is_served(start_swapping, tmp_path):
    """Nobody without the token, no torn or wrong version; what turns bad later is taken back."""
    server = await asyncio.to_thread(start_swapping("--watch-window-seconds=60").wait_ready)
    admin = "http://" + server.start_line["admin"]
    async with httpx.AsyncClient(trust_env=False) as http:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            assert (await http.post(admin + "/rollback", headers=headers)).status_code == 401
    async with connected(server) as client:
        for damage, words in DAMAGES.items():
            folder = damaged(tmp_path / damage / "2", damage)
            message = await refusal(
                client, "/versions/2/load", path=str(folder), policy="availability"
            )
            assert words in message, damage
        assert (await client.over_http(0, "tiny")).version == "1"

        poisoned = damaged(tmp_path / "poisoned" / "2", "not a number")
        await client.admin("POST", "/versions/2/load", path=str(poisoned), policy="availability")
        await client.admin("POST", "/versions/2/promote")
        body = {"model": "tiny", "prompt": "def", "max_tokens": 4}
        assert server.post("/v1/completions", body).status_code == 500
        assert server.post("/v1/completions", body).status_code == 200
        await asyncio.to_thread(wait_for, lambda: is_served(server, "1"), "the version before")
        assert "went back to version 1" in (await client.admin("GET", "/versions/2"))["message"]
    assert server.metric("antipode_model_swaps_total", result="automatic_rollback") == 1
    assert server.metric("antipode_compilations_after_ready_total") == 0


LOAD, PROMOTE, ROLLBACK = "/versions/2/load", "/versions/2/promote", "/rollback"
# The phase in which the server is killed: policy, the calls up to it, its words, and their turn.
PHASES = {
    "looking at a version": ("availability", [LOAD], "looking at it", 1),
    "loading next to the served": ("availability", [LOAD], "reading weights", 1),
    "proving what was loaded": ("availability", [LOAD], "running golden prompts", 1),
    "staging": ("resource", [LOAD], "reading weights", 1),
    "switching, held": ("resource", [LOAD, PROMOTE], "its sequences finish", 1),
    "switching, exchanging": ("resource", [LOAD, PROMOTE], "moving to the device", 1),
    "going back, held": ("resource", [LOAD, PROMOTE, ROLLBACK], "its sequences finish", 2),
    "going back, exchanging": ("resource", [LOAD, PROMOTE, ROLLBACK], "moving to the device", 2),
}


async def test_a_server_killed_in_any_phase_comes_back_with_the_version_of_its_file(
    start_swapping, config, tmp_path
):
    for number, (phase, (policy, calls, words, turn)) in enumerate(PHASES.items()):
        reached = tmp_path / f"reached-{number}"
        pause = {"PAUSE_IN": words, "PAUSE_TURN": str(turn), "PAUSE_FILE": str(reached)}
        server = await asyncio.to_thread(start_swapping(module=PAUSED, **pause).wait_ready)
        assert is_served(server, "1"), phase
        async with connected(server) as client:
            for done in calls[:-1]:
                await client.admin("POST", done, policy=policy)
            change = asyncio.create_task(client.admin("POST", calls[-1], policy=policy))
            await asyncio.to_thread(wait_for, reached.exists, phase)
            assert not change.done(), phase
            server.process.kill()
            with contextlib.suppress(httpx.HTTPError):
                await change
    config.write(version="2")
    server = await asyncio.to_thread(start_swapping().wait_ready)
    assert is_served(server, "2")


BOMB = "a: &a [x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in itertools.pairwise("abcdefghijkl")
)


async def test_no_content_of_the_file_ends_the_server_or_its_watcher(start_swapping, config):
    server = await asyncio.to_thread(start_swapping().wait_ready)
    async with connected(server) as client:
        # The file did not change since the start, so what a command asks for holds.
        await client.admin("POST", "/versions/2/load")
        await client.admin("POST", "/versions/2/promote")
        await asyncio.sleep(1.5)
        assert is_served(server, "2")
        named = await client.over_http(0, "tiny@2")
        assert named == await client.over_grpc(0, "tiny@2")
        assert named.version == "2"

        for content, words in (
            (BOMB, "it holds an anchor"),
            ("name: tiny\npath: models/tiny\nversion: 2026-13-01\n", "is no whole number"),
        ):
            config.write(text=content)
            await error(client, words)
        config.path.unlink()
        os.mkfifo(config.path)
        await error(client, "it is a FIFO")
        assert is_served(server, "2")
        config.path.unlink()
        config.path.symlink_to(Path("..data") / "model.yaml")
        config.write(version="1")
        await asyncio.to_thread(wait_for, lambda: is_served(server, "1"), "the next right file")
        assert (await client.admin("GET", "/versions"))["config_error"] == ""
    assert server.metric("antipode_thread_faults_total", thread="model-config") == 0


@pytest.mark.parametrize("kind", ["fifo", "bomb", "date"])
def test_a_server_says_in_one_sentence_why_it_does_not_start_on_a_file(tmp_path, kind):
    path = tmp_path / "model.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        text = "name: tiny\npath: models/tiny\nversion: 2026-13-01\n"
        path.write_text(BOMB if kind == "bomb" else text)
    command = [sys.executable, "-m", "server", "serve", f"--model-config={path}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(
        f"antipode serve: the model configuration file {path} cannot be followed: "
    )
    assert "Traceback" not in ended.stderr


async def error(client, words):
    """Wait until the server says that it does not follow the file for this reason."""
    deadline = asyncio.get_running_loop().time() + 20
    while words not in (found := await client.admin("GET", "/versions"))["config_error"]:
        assert asyncio.get_running_loop().time() < deadline, found
        await asyncio.sleep(0.1)


DAMAGES = {
    "no manifest": "it may be half written",
    "cut short": "was published with",
    "wrong checksum": "does not have the checksum",
    "other shape": "num_layers",
    "other tokenizer": "tokenizer_config.json",
    "wrong golden tokens": "golden prompt 1 of 4",
}


def damaged(folder, damage):
    """Version 2, made wrong in one way."""
    shutil.copytree(MODEL / "2", folder)
    weights = folder / "model.safetensors"
    golden = manifest.golden(manifest.read(folder))
    match damage:
        case "no manifest":
            (folder / manifest.NAME).unlink()
        case "cut short":
            weights.write_bytes(weights.read_bytes()[:-1000])
        case "wrong checksum":
            content = bytearray(weights.read_bytes())
            content[-1] ^= 1
            weights.write_bytes(content)
        case "other shape":
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
            manifest.write(folder, golden)
        case "other tokenizer":
            config = json.loads((folder / "tokenizer_config.json").read_text())
            config["chat_template"] = "{{ messages }}"
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            manifest.write(folder, golden)
        case "wrong golden tokens":
            manifest.write(folder, manifest.golden(manifest.read(MODEL / "1")))
        case "not a number":
            tensors = load_file(weights)
            poison(tensors, Tokenizer.load(folder).encode("def")[-1])
            save_file(tensors, weights)
            manifest.write(folder, manifest.Golden(0.1, (manifest.GoldenPrompt((5, 6), (0,)),)))
    return folder


def poison(tensors, token_id):
    """Have the MLP of the first layer overflow at one token, so that only requests find it out.

    Only that token has anything in the first dimension. All logits are equal: 0 is the greedy
    token.
    """
    tensors["model.norm.weight"][:] = 0
    embeddings = tensors["model.embed_tokens.weight"]
    embeddings[:, 0], embeddings[token_id] = 0, 0
    embeddings[token_id, 0] = 1
    tensors["model.layers.0.self_attn.o_proj.weight"][0] = 0
    for name in ("gate_proj", "up_proj"):
        tensors[f"model.layers.0.mlp.{name}.weight"][0, 0] = 1e30


async def refusal(client, route, **body):
    with pytest.raises(AssertionError) as error:
        await client.admin("POST", route, **body)
    return str(error.value)


def models(server):
    return {card["id"]: card for card in server.get("/v1/models").json()["data"]}


def is_served(server, version):
    return models(server)["tiny"]["version"] == version


def not_followed(server):
    return server.metric("antipode_model_config_followed") == 0
