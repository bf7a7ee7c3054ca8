"""Naming versions in requests, and the two admin protocols over the same object."""

from __future__ import annotations

import asyncio
import logging

import grpc
import httpx
import pytest

from server.api.adapter_admin import AdapterAdmin
from server.api.requests.generation import GenerateRequest
from server.api.servers.admin_server import create_admin_app
from server.api.servers.grpc_server import create_versions_server
from server.api.version_admin import VersionAdmin
from server.config.server_config import ServerConfig
from server.errors import ApiError, ErrorKind
from server.link.frames import Pulse
from server.link.status import VersionStatus
from server.pb.antipode.v1 import versions_pb2 as pb
from server.pb.antipode.v1.versions_pb2_grpc import VersionsStub
from tests.api.grpc.serving import reserved_port

RIGHT = {"authorization": "Bearer secret"}


def status(version, state="AVAILABLE", **fields):
    return VersionStatus(version=version, path=f"/models/small/{version}", state=state, **fields)


@pytest.fixture
def engine(engine):
    engine.pulse = Pulse(
        state="ready",
        versions=(
            status("1", is_serving=True, labels=("stable",)),
            status("2", labels=("canary",)),
            status("3", "LOADING", progress=0.5),
            status("4", "END", message="its checksum is wrong"),
        ),
        config_error="it is not YAML",
    )
    return engine


class TestNames:
    @pytest.mark.parametrize(
        ("model", "version"),
        [
            ("", None),
            ("small", None),
            ("small@1", "1"),
            ("small@2", "2"),
            ("small@stable", "1"),
            ("small@canary", "2"),
        ],
    )
    async def test_a_request_names_a_version_or_a_label_or_neither(
        self, service, engine, model, version
    ):
        async with await service.start(GenerateRequest(prompt="hello", model=model)):
            assert engine.submitted[-1].version == version

    @pytest.mark.parametrize("model", ["small@3", "small@4", "small@5", "small@", "other@1", "@1"])
    async def test_what_is_not_available_is_not_found(self, service, model):
        with pytest.raises(ApiError) as caught:
            await service.start(GenerateRequest(prompt="hello", model=model))
        assert caught.value.kind is ErrorKind.NOT_FOUND
        assert "'small', 'small@1', 'small@2'" in caught.value.message

    async def test_the_engine_says_which_version_it_was(self, service, engine):
        engine.script = None
        task = asyncio.create_task(service.start(GenerateRequest(prompt="hello")))
        while not engine.submitted:
            await asyncio.sleep(0)
        engine.emit([1], version="2", finish_reason="stop")
        async with await task as generation:
            assert generation.version == "2"

    async def test_models_are_the_loaded_versions(self, service):
        models = {model.id: (model.version, model.state) for model in service.models.loaded()}
        assert models == {"small": ("1", "AVAILABLE"), "small@2": ("2", "AVAILABLE")}
        assert service.models.find("small@canary").id == "small@2"


@pytest.fixture
def admin(service, engine, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    return VersionAdmin(service.models, engine, token)


class TestToken:
    @pytest.mark.parametrize("header", ["", "secret", "Bearer ", "Bearer wrong", "Basic secret"])
    def test_without_it_nothing_is_done(self, admin, header):
        with pytest.raises(ApiError) as caught:
            admin.authorize(header)
        assert caught.value.kind is ErrorKind.UNAUTHENTICATED

    def test_the_admin_token_may_change_while_the_server_runs(self, admin, tmp_path):
        admin.authorize("bearer secret")
        (tmp_path / "token").write_text("other")
        admin.authorize("Bearer other")

    @pytest.mark.parametrize("content", [None, ""])
    def test_a_server_without_a_token_lets_nobody_in_and_says_why(self, admin, tmp_path, content):
        (tmp_path / "token").unlink()
        if content is not None:
            (tmp_path / "token").write_text(content)
        with pytest.raises(ApiError, match=f"{tmp_path}/token.*write the token into it"):
            admin.authorize("Bearer ")


class TestHttp:
    @pytest.fixture
    async def http(self, admin):
        adapters = AdapterAdmin(admin._models, admin._engine)
        transport = httpx.ASGITransport(create_admin_app(admin, adapters))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://admin", headers=RIGHT
        ) as client:
            yield client

    async def test_versions_are_listed(self, http):
        body = (await http.get("/versions")).json()
        assert body["model"] == "small"
        assert body["config_error"] == "it is not YAML"
        assert [version["version"] for version in body["versions"]] == ["1", "2", "3", "4"]
        assert (await http.get("/versions/3")).json()["progress"] == 0.5
        assert (await http.get("/versions/9")).status_code == 404

    async def test_a_version_is_loaded_beside_the_served_one(self, http, engine):
        assert (await http.post("/versions/2/load")).status_code == 200
        assert engine.changes == [("load", "2", "/models/small/2", None)]

    async def test_a_version_is_loaded_from_the_path_and_by_the_policy_in_the_body(
        self, http, engine
    ):
        body = {"path": "gs://bucket/small/2", "policy": "resource"}
        await http.post("/versions/2/load", json=body)
        assert engine.changes == [("load", "2", "gs://bucket/small/2", "resource")]

    async def test_the_other_changes(self, http, engine):
        for path in ("/versions/2/promote", "/rollback", "/versions/2/unload"):
            assert (await http.post(path)).status_code == 200
        assert [change[:2] for change in engine.changes] == [
            ("promote", "2"),
            ("rollback", ""),
            ("unload", "2"),
        ]

    async def test_a_change_that_cannot_be_says_why(self, http, engine):
        engine.change_error = ApiError(ErrorKind.CONFLICT, "version 2 is not loaded: too large")
        answer = await http.post("/versions/2/load")
        assert answer.status_code == 409
        assert answer.json()["error"]["message"] == "version 2 is not loaded: too large"

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/versions/new/load", None),
            ("/versions/2/load", {"policy": "fast"}),
            ("/versions/2/load", {"paht": "x"}),
        ],
    )
    async def test_nonsense_is_refused(self, http, engine, path, body):
        assert (await http.post(path, json=body)).status_code in (400, 422)
        assert engine.changes == []

    async def test_nobody_gets_in_without_the_token(self, http):
        for method, path in (("GET", "/versions"), ("POST", "/rollback"), ("GET", "/docs")):
            answer = await http.request(method, path, headers={"authorization": "Bearer no"})
            assert answer.status_code in (401, 404)

    async def test_every_change_and_every_refused_caller_leaves_an_audit_line(
        self, http, engine, caplog
    ):
        caplog.set_level(logging.INFO)
        await http.post("/versions/2/promote", headers={"x-request-id": "r-1"})
        engine.change_error = ApiError(ErrorKind.CONFLICT, "version 2 is not loaded: too large")
        await http.post("/rollback")
        await http.get("/versions")
        await http.get("/versions", headers={"authorization": "Bearer guessed"})
        lines = [r for r in caplog.records if r.getMessage() == "audit"]
        assert [(r.action, r.outcome) for r in lines] == [
            ("promote", "done"),
            ("rollback", "conflict"),
            ("call", "unauthenticated"),
        ]
        assert (lines[0].version, lines[0].request_id) == ("2", "r-1")
        assert lines[0].client == "127.0.0.1"
        assert [r.by for r in lines] == ["the admin token", "the admin token", "nobody known"]
        assert [r.call for r in lines] == [
            "POST /versions/2/promote",
            "POST /rollback",
            "GET /versions",
        ]
        assert "secret" not in caplog.text
        assert "guessed" not in "".join(str(vars(r)) for r in lines)

    @pytest.mark.parametrize(
        ("path", "content", "action", "outcome"),
        [
            ("/versions/new/load", b"", "load", "invalid_request"),
            ("/versions/2/load", b'{"policy": "fast"}', "load", "invalid_request"),
            ("/versions/new/promote", b"", "promote", "invalid_request"),
            ("/versions/new/unload", b"", "unload", "invalid_request"),
            ("/versions/2/load", b'{"paht": "x"}', "call", "400"),
            ("/versions/2/load", b"{", "call", "400"),
            ("/versions/2/load", b"x" * (1 << 17), "call", "413"),
            ("/versions/2/lode", b"", "call", "404"),
            ("/adapters/sql/load", b"", "load adapter", "invalid_request"),
        ],
    )
    async def test_a_refused_change_leaves_one_audit_line(
        self, http, engine, caplog, path, content, action, outcome
    ):
        caplog.set_level(logging.INFO)
        headers = {"content-type": "application/json"}
        assert (await http.post(path, content=content, headers=headers)).status_code >= 400
        [line] = [r for r in caplog.records if r.getMessage() == "audit"]
        assert (line.action, line.outcome, line.call) == (action, outcome, f"POST {path}")
        assert line.by == "the admin token"
        assert engine.changes == []

    async def test_no_body_is_read_without_the_token(self, http):
        """Nor is it said which paths there are."""
        for path in ("/versions/2/load", "/nothing"):
            headers = {"authorization": "Bearer no", "content-type": "application/json"}
            answer = await http.post(path, content=b"{", headers=headers)
            assert answer.status_code == 401


class TestGrpc:
    @pytest.fixture
    async def channel(self, admin):
        with reserved_port() as port:
            config = ServerConfig(admin_host="127.0.0.1", admin_grpc_port=port)
            server = create_versions_server(admin, config)
            await server.start()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield channel
            await server.stop(0)

    @pytest.fixture
    def stub(self, channel):
        return VersionsStub(channel)

    metadata = tuple(RIGHT.items())

    async def test_versions_are_listed(self, stub):
        answer = await stub.ListVersions(pb.ListVersionsRequest(), metadata=self.metadata)
        assert answer.model == "small"
        assert [version.state for version in answer.versions] == [
            pb.VERSION_STATE_AVAILABLE,
            pb.VERSION_STATE_AVAILABLE,
            pb.VERSION_STATE_LOADING,
            pb.VERSION_STATE_END,
        ]
        assert answer.versions[0].is_serving
        one = await stub.GetStatus(pb.GetStatusRequest(version="4"), metadata=self.metadata)
        assert one.message == "its checksum is wrong"

    async def test_changes_reach_the_engine_in_their_order(self, stub, engine):
        request = pb.LoadVersionRequest(version="2", policy=pb.SWAP_POLICY_AVAILABILITY)
        await stub.LoadVersion(request, metadata=self.metadata)
        await stub.Promote(pb.PromoteRequest(version="2"), metadata=self.metadata)
        await stub.Rollback(pb.RollbackRequest(), metadata=self.metadata)
        await stub.UnloadVersion(pb.UnloadVersionRequest(version="2"), metadata=self.metadata)
        assert [change[0] for change in engine.changes] == ["load", "promote", "rollback", "unload"]
        assert engine.changes[0] == ("load", "2", "/models/small/2", "availability")

    async def test_a_change_that_cannot_be_says_why(self, stub, engine):
        engine.change_error = ApiError(ErrorKind.CONFLICT, "no room")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Promote(pb.PromoteRequest(version="2"), metadata=self.metadata)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == "no room"

    async def test_nobody_gets_in_without_the_token(self, stub):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListVersions(pb.ListVersionsRequest())
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    async def test_a_refused_change_leaves_one_audit_line(self, stub, caplog):
        caplog.set_level(logging.INFO)
        for metadata in (self.metadata, ()):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Promote(pb.PromoteRequest(version="new"), metadata=metadata)
        lines = [r for r in caplog.records if r.getMessage() == "audit"]
        assert [(r.action, r.outcome) for r in lines] == [
            ("promote", "invalid_request"),
            ("call", "unauthenticated"),
        ]
        assert {r.call for r in lines} == {"gRPC /antipode.v1.Versions/Promote"}
        ids = [r.request_id for r in lines]
        assert dict(caught.value.trailing_metadata())["x-request-id"] == ids[1]
        assert ids[0] != ids[1] != ""

    async def test_bytes_that_are_no_change_leave_an_audit_line(self, channel, caplog):
        caplog.set_level(logging.INFO)
        promote = channel.unary_unary("/antipode.v1.Versions/Promote")
        with pytest.raises(grpc.aio.AioRpcError):
            await promote(b"\xff", metadata=self.metadata)
        [line] = [r for r in caplog.records if r.getMessage() == "audit"]
        assert (line.action, line.outcome) == ("call", "INVALID_ARGUMENT")
