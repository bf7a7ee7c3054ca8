"""Commands on versions and their answers, and the file that names the versions to serve."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from server.link.frames import AdapterCommand, VersionCommand, VersionResult
from server.processes.engine import version_commands
from server.processes.engine.version_commands import VersionCommands, follow_model_file
from server.versions.model_file.model_file import ModelFile
from server.versions.model_file.model_file_watcher import Started
from server.versions.version import VersionError

COMMAND = VersionCommand(command_id=3, action="rollback")


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (None, VersionResult(command_id=3)),
        (
            VersionError("no version 9", "not_found"),
            VersionResult(command_id=3, error="not_found", message="no version 9"),
        ),
        (RuntimeError("a bug"), VersionResult(command_id=3, error="internal", message="a bug")),
    ],
)
@pytest.mark.parametrize(
    "command", [COMMAND, AdapterCommand(command_id=3, action="load", name="a")]
)
def test_a_command_is_answered_once_it_is_done_after_a_pulse(error, result, command):
    done, sent = Future(), []
    manager = SimpleNamespace(command=lambda command: done)
    link = SimpleNamespace(send=lambda client, frame: sent.append((client, frame)))
    pulses = SimpleNamespace(send=lambda: sent.append("pulse"))
    others = SimpleNamespace(command=None)
    managers = (manager, others) if isinstance(command, VersionCommand) else (others, manager)
    VersionCommands(*managers, link, pulses).receive(7, command)
    assert sent == []
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
    assert sent == ["pulse", (7, result)]


@pytest.mark.parametrize("content", [b"name: tiny\n", b""])
def test_the_file_is_followed_from_what_the_server_was_started_with(monkeypatch, tmp_path, content):
    made = []
    monkeypatch.setattr(
        version_commands,
        "ModelFileWatcher",
        lambda *args: made.append(args) or SimpleNamespace(start=lambda: made.append("started")),
    )
    followed = []
    versions = SimpleNamespace(follow=followed.append, reject="reject")
    adapters = SimpleNamespace(follow=followed.append)
    started = Started(content, "1")
    follow_model_file(tmp_path / "model.json", "tiny", versions, adapters, started)
    (path, model, follow, *rest), began = made
    assert (path, model, began) == (tmp_path / "model.json", "tiny", "started")
    assert rest == ["reject", started if content else None]
    file = ModelFile("tiny", "/models/tiny", "1", adapters={"sql": "2"})
    follow(file)
    assert followed == [file, {"sql": "2"}]
