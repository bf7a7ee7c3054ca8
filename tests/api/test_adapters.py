"""Adapters in requests, in the list of models, on the admin port and by vLLM's routes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import httpx
import msgspec
import pytest

from server.api.adapter_admin import AdapterAdmin
from server.api.requests.generation import GenerateRequest, ResumePoint, Sampling
from server.api.requests.model_names import (
    ModelName,
    parse_model_name,
    parse_stream_version,
    stream_version,
)
from server.api.servers.admin_server import create_admin_app
from server.api.servers.http_server import create_http_app
from server.api.version_admin import VersionAdmin
from server.config.server_config import ServerConfig
from server.errors import ApiError, ErrorKind
from server.link.frames import Pulse
from server.link.status import AdapterStatus

SQL = AdapterStatus(name="sql", version="2", path="/m/adapters/sql/2", state="AVAILABLE", rank=8)
OLD = AdapterStatus(name="old", version="1", path="/m/adapters/old/1", state="UNLOADING", rank=8)


@pytest.fixture
def engine(engine):
    engine.info = msgspec.structs.replace(engine.info, max_loras=4)
    engine.pulse = Pulse(state="ready", adapters=(SQL, OLD))
    return engine


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("", ModelName()),
        ("tiny:8b", ModelName()),
        ("tiny:8b@3", ModelName("3")),
        ("tiny:8b:sql", ModelName(None, "sql")),
        ("tiny:8b@3:sql@2", ModelName("3", "sql", "2")),
        ("sql", ModelName(None, "sql")),
        ("sql@2", ModelName(None, "sql", "2")),
        ("tiny:8bx", ModelName(None, "tiny:8bx")),
    ],
)
def test_a_name_has_a_version_an_adapter_both_or_neither(name, parts):
    assert parse_model_name(name, "tiny:8b") == parts


@pytest.mark.parametrize(
    "parts", [("1", None, ""), ("", None, ""), ("1", "sql", "2"), ("", "sql", "")]
)
def test_what_a_stream_reports_names_version_and_adapter(parts):
    version, adapter, adapter_version = parts
    expected = ModelName(version, adapter, None if adapter is None else adapter_version)
    assert parse_stream_version(stream_version(*parts)) == expected


@pytest.mark.parametrize(
    ("model", "submitted"),
    [
        ("sql", ("sql", None)),
        ("small:sql", ("sql", None)),
        ("small@1:sql@2", ("sql", "2")),
        ("small", (None, None)),
    ],
)
async def test_a_request_names_an_adapter(service, engine, model, submitted):
    async with await service.start(GenerateRequest(prompt="hello", model=model)) as generation:
        found = engine.submitted[-1]
        assert (found.adapter, found.adapter_version) == submitted
        assert generation.model == (submitted[0] or "small")


@pytest.mark.parametrize("model", ["sql@1", "old", "small:", "small:none", "small@9:sql"])
async def test_an_adapter_that_is_not_here_is_not_found(service, model):
    with pytest.raises(ApiError, match=r"this server has 'small', 'small@1', 'sql'") as caught:
        await service.start(GenerateRequest(prompt="hello", model=model))
    assert caught.value.kind is ErrorKind.NOT_FOUND


async def test_a_stream_reports_its_adapter_and_a_resumed_one_names_it(service, engine):
    engine.script = None
    task = asyncio.create_task(service.start(GenerateRequest(prompt="hello", model="sql")))
    while not engine.submitted:
        await asyncio.sleep(0)
    engine.emit([1], version="1", adapter_version="2", finish_reason="stop")
    async with await task as generation:
        assert generation.version == "1+sql@2"
    request = GenerateRequest(
        prompt="hello",
        model="sql",
        sampling=Sampling(seed=3),
        resume=ResumePoint(version="1+sql@2"),
    )
    task = asyncio.create_task(service.start(request))
    while len(engine.submitted) < 2 and not task.done():
        await asyncio.sleep(0)
    engine.emit([1], version="1", adapter_version="2", finish_reason="stop")
    async with await task:
        found = engine.submitted[-1]
        assert (found.version, found.adapter, found.adapter_version) == ("1", "sql", "2")
    for other, kind, message in (
        ("1+sql@1", ErrorKind.VERSION_GONE, "version '1' of adapter sql, but this server has '2'"),
        ("7+sql@2", ErrorKind.VERSION_GONE, "version '7' of the model"),
        ("1", ErrorKind.INVALID_REQUEST, "began with adapter none, but model names sql"),
    ):
        with pytest.raises(ApiError, match=message) as caught:
            await service.start(replace(request, resume=ResumePoint(version=other)))
        assert caught.value.kind is kind


async def test_adapters_are_listed_below_their_model(client):
    models = (await client.get("/v1/models")).json()["data"]
    assert [(each["id"], each["parent"], each["root"]) for each in models] == [
        ("small", None, "small"),
        ("sql", "small", "sql"),
    ]
    assert models[1]["version"] == "2"
    assert (await client.get("/v1/models/sql")).json()["parent"] == "small"
    assert (await client.get("/v1/models/old")).status_code == 404


async def test_vllms_routes_are_not_there_unless_a_setting_allows_them(client):
    body = {"lora_name": "a", "lora_path": "/a"}
    assert (await client.post("/v1/load_lora_adapter", json=body)).status_code == 404


@pytest.fixture
async def updating(service, health, engine):
    """The HTTP API with vLLM's routes."""
    adapters = AdapterAdmin(service.models, engine)
    app = create_http_app(service, health, ServerConfig(), adapters=adapters)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://api"
    ) as client:
        yield client


async def test_adapters_are_loaded_and_unloaded_by_vllms_routes(updating, engine):
    body = {"lora_name": "sql", "lora_path": "/m/sql"}
    again = await updating.post("/v1/load_lora_adapter", json=body)
    assert again.status_code == 400
    assert "is loaded already; set load_inplace" in again.text
    answer = await updating.post("/v1/load_lora_adapter", json=body | {"load_inplace": True})
    assert answer.text == "Success: LoRA adapter 'sql' added successfully."
    answer = await updating.post("/v1/unload_lora_adapter", json={"lora_name": "sql"})
    assert answer.text == "Success: LoRA adapter 'sql' removed successfully."
    assert engine.changes == [("load", "sql", "/m/sql", None), ("unload", "sql", "", None)]


async def test_every_change_of_an_adapter_leaves_an_audit_line(updating, engine, caplog):
    caplog.set_level(logging.INFO)
    body = {"lora_name": "sql", "lora_path": "/m/sql", "load_inplace": True}
    await updating.post("/v1/load_lora_adapter", json=body)
    engine.change_error = ApiError(ErrorKind.NOT_FOUND, "adapter x is not loaded here")
    await updating.post("/v1/unload_lora_adapter", json={"lora_name": "x"})
    lines = [vars(r) for r in caplog.records if r.getMessage() == "audit"]
    assert [(r["action"], r["adapter"], r["outcome"], r["by"]) for r in lines] == [
        ("load adapter", "sql", "done", "nobody known"),
        ("unload adapter", "x", "not_found", "nobody known"),
    ]
    assert lines[0]["path"] == "/m/sql"


async def test_a_server_without_slots_says_how_to_get_some(updating, engine):
    engine.info = msgspec.structs.replace(engine.info, max_loras=0)
    body = {"lora_name": "a", "lora_path": "/a"}
    answer = await updating.post("/v1/load_lora_adapter", json=body)
    assert answer.status_code == 400
    assert "start it with --max-loras" in answer.text


async def test_the_admin_port_lists_loads_and_unloads_adapters(service, engine, tmp_path):
    (tmp_path / "token").write_text("secret")
    app = create_admin_app(
        VersionAdmin(service.models, engine, tmp_path / "token"),
        AdapterAdmin(service.models, engine),
    )
    headers = {"authorization": "Bearer secret"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://admin"
    ) as client:
        assert (await client.get("/adapters")).status_code == 401
        client.headers.update(headers)
        listed = (await client.get("/adapters")).json()["adapters"]
        assert [(each["name"], each["state"]) for each in listed] == [
            ("sql", "AVAILABLE"),
            ("old", "UNLOADING"),
        ]
        loaded = await client.post("/adapters/sql/load", json={"version": "2"})
        assert loaded.json()["path"] == "/m/adapters/sql/2"
        await client.post("/adapters/sql/unload")
        assert engine.changes == [("load", "sql", "", "2"), ("unload", "sql", "", None)]
        engine.change_error = ApiError(ErrorKind.NOT_FOUND, "adapter x is not loaded here")
        assert (await client.post("/adapters/x/unload")).status_code == 404
