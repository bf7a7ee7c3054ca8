"""Commands on versions and their answers, and the file that names the versions to serve."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from server.link.frames import VersionCommand, VersionResult
from server.processes import version_commands
from server.processes.version_commands import VersionCommands, follow_model_file
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
def test_a_command_is_answered_once_it_is_done_after_a_pulse(error, result):
    done, sent = Future(), []
    manager = SimpleNamespace(command=lambda command: done)
    link = SimpleNamespace(send=lambda client, frame: sent.append((client, frame)))
    pulses = SimpleNamespace(send=lambda: sent.append("pulse"))
    VersionCommands(manager, link, pulses).receive(7, COMMAND)
    assert sent == []
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
    assert sent == ["pulse", (7, result)]


class FakeWatcher:
    """Takes the file it is given for the one that was found."""

    found = None

    def __init__(self, path, follow, reject):
        self.follow = follow

    def start(self):
        self.follow(self.found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny", "followed tiny"),
        ("other", "name is other, but this server was started for tiny"),
    ],
)
def test_a_file_of_another_model_is_rejected(monkeypatch, tmp_path, name, expected):
    heard = []
    monkeypatch.setattr(version_commands, "ModelConfigWatcher", FakeWatcher)
    monkeypatch.setattr(FakeWatcher, "found", SimpleNamespace(name=name))
    manager = SimpleNamespace(
        follow=lambda file: heard.append(f"followed {file.name}"), reject=heard.append
    )
    follow_model_file(tmp_path / "model.json", "tiny", manager)
    assert heard == [expected]
