"""Versions of a real model change under load: one server for the whole story."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx
import pytest

from benchmarks.swap import FLAGS, MODEL, TOKEN, connected, run
from tests.e2e.servers import REAL, wait_for


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

    def start_one(*flags):
        return start(
            REAL,
            f"--model-config={config.path}",
            f"--admin-token-file={token}",
            "--admin-port=0",
            "--admin-grpc-port=0",
            *FLAGS,
            *flags,
        )

    return start_one


async def test_versions_change_under_load_and_by_the_file(start_swapping, config):
    server = await asyncio.to_thread(start_swapping().wait_ready)
    async with connected(server) as client:
        seen = await run(client, rounds=1, num_streams=32)
        assert min(seen.answers["1"], seen.answers["2"]) >= 16
        assert not seen.failures
        assert not seen.mixed

        config.write(version="2", labels={"stable": "2", "canary": "1"}, swap_policy="availability")
        await asyncio.to_thread(wait_for, lambda: is_served(server, "2"), "version 2")
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


async def test_the_admin_port_wants_the_token(start_swapping):
    """And kill -9 while a version is loaded: the next start serves what the file says."""
    server = await asyncio.to_thread(start_swapping().wait_ready)
    admin = "http://" + server.start_line["admin"]
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(admin + "/versions")).status_code == 401
        wrong = {"authorization": "Bearer wrong"}
        assert (await http.post(admin + "/rollback", headers=wrong)).status_code == 401
        right = {"authorization": f"Bearer {TOKEN}"}
        refused = await http.post(admin + "/versions/9/load", headers=right)
        assert refused.status_code == 409
        assert "models/tiny/9" in refused.json()["error"]["message"]
    assert (await asyncio.to_thread(server.get, "/versions")).status_code == 404


def models(server):
    return {card["id"]: card for card in server.get("/v1/models").json()["data"]}


def is_served(server, version):
    return models(server)["tiny"]["version"] == version


def not_followed(server):
    return server.metric("antipode_model_config_followed") == 0
