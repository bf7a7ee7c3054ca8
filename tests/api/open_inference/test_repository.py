"""The versions of the model as a repository, behind the admin token."""

import contextlib
import logging

import pytest

from server.api.access.call import Call, set_current_call
from server.api.open_inference.repository import Repository
from server.api.requests.model_directory import ModelDirectory
from server.api.version_admin import VersionAdmin
from server.errors import ApiError, ErrorKind
from server.lifecycle import Lifecycle
from server.link.frames import Pulse
from server.link.status import VersionStatus
from tests.api.fakes import FakeEngine

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def engine():
    engine = FakeEngine()
    versions = (
        VersionStatus(version="1", path="/m/small/1", state="AVAILABLE", is_serving=True),
        VersionStatus(version="2", path="/m/small/2", state="LOADING", message="reading"),
        VersionStatus(version="3", path="/m/small/3", state="END", message="torn"),
    )
    engine.pulse = Pulse(state="ready", versions=versions)
    return engine


@pytest.fixture
def repository(engine, tmp_path):
    lifecycle = Lifecycle()
    lifecycle.mark_ready()
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    return Repository(VersionAdmin(ModelDirectory(engine, lifecycle), engine, file))


def test_the_index_has_a_row_per_version(repository):
    rows = [(e.version, e.state, e.reason) for e in repository.index(only_ready=False)]
    assert rows == [
        ("1", "READY", ""), ("2", "LOADING", "reading"), ("3", "UNAVAILABLE", "torn")
    ]  # fmt: skip
    assert [e.version for e in repository.index(only_ready=True)] == ["1"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("small@3", {}),
        ("small", {"config": '{"version_policy": {"specific": {"versions": [3]}}}'}),
    ],
)
async def test_loading_reads_and_serves_a_version(repository, engine, name, parameters):
    await repository.load(name, parameters)
    assert engine.changes == [("load", "3", "/m/small/3", None), ("promote", "3", "", None)]


async def test_loading_what_is_served_changes_nothing(repository, engine):
    await repository.load("small@1", {})
    assert engine.changes == []


async def test_unloading_frees_a_named_version(repository, engine):
    await repository.unload("small@2")
    assert engine.changes == [("unload", "2", "", None)]


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("small", {}, "name the version to load"),
        ("large@1", {}, "'large' does not exist here"),
        ("small", {"file:1/model.onnx": b""}, "is not supported"),
        ("small", {"config": "{}"}, "must name one version"),
        ("small", {"config": '{"version_policy": []}'}, "must name one version"),
    ],
)
async def test_loading_without_one_version_is_refused(repository, name, parameters, sentence):
    with pytest.raises(ApiError, match=sentence):
        await repository.load(name, parameters)


async def test_the_served_version_cannot_be_unloaded_by_the_models_name(repository):
    with pytest.raises(ApiError) as error:
        await repository.unload("small")
    assert error.value.kind is ErrorKind.CONFLICT


@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {TOKEN}"}, {"x-antipode-admin-token": TOKEN}]
)
def test_the_token_opens_in_either_header(repository, headers):
    repository.authorize(headers)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer other"}, {"x-api-key": TOKEN}])
def test_without_the_token_nothing_opens(repository, headers):
    with pytest.raises(ApiError) as error:
        repository.authorize(headers)
    assert error.value.kind is ErrorKind.UNAUTHENTICATED


def test_a_server_without_a_token_takes_no_admin_calls():
    with pytest.raises(ApiError, match="--admin-token-file"):
        Repository(None).authorize({"authorization": "Bearer x"})


CONFIG_OF_TWO = {"config": '{"version_policy": {"specific": {"versions": [2, 3]}}}'}


@pytest.mark.parametrize(
    ("action", "arguments", "outcome"),
    [
        ("load", ("small@1", {}), "served already"),
        ("load", ("other", {}), "not_found"),
        ("load", ("small", {}), "invalid_request"),
        ("load", ("small", {"config": "{"}), "invalid_request"),
        ("load", ("small", CONFIG_OF_TWO), "invalid_request"),
        ("load", ("small@new", {}), "invalid_request"),
        ("unload", ("other",), "not_found"),
        ("unload", ("small",), "conflict"),
        ("unload", ("small@new",), "invalid_request"),
    ],
)
async def test_a_change_that_is_not_made_leaves_one_audit_line(
    repository, engine, caplog, action, arguments, outcome
):
    caplog.set_level(logging.INFO)
    set_current_call(Call(method="gRPC", path="/x", has_admin_token=True))
    with contextlib.suppress(ApiError):
        await getattr(repository, action)(*arguments)
    [line] = [r for r in caplog.records if r.getMessage() == "audit"]
    assert (line.action, line.outcome, line.by) == (action, outcome, "the admin token")
    assert engine.changes == []
