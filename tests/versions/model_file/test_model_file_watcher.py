"""What the watcher reports, look by look."""

from __future__ import annotations

import os
import threading
import time

import pytest

from server.threads import fault_counts
from server.versions.model_file import model_file_watcher
from server.versions.model_file.model_file import ModelFile, parse_model_config, read_model_file
from server.versions.model_file.model_file_watcher import ModelFileWatcher, Started

TEXT = 'name: tiny\npath: models/tiny\nversion: "1"\n'


def parse(text):
    return parse_model_config(text.encode())


class Watched:
    def __init__(self, path, started=None):
        self.path, self.files, self.errors = path, [], []
        self.watcher = ModelFileWatcher(
            path, "tiny", self.files.append, self.errors.append, started
        )

    def write(self, text):
        self.path.write_text(text)

    def look(self, times=1):
        for _ in range(times):
            self.watcher.look()


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path / "model.yaml")


class TestWatching:
    def test_content_that_stood_still_is_reported_once(self, watched):
        watched.write(TEXT)
        watched.look()
        assert watched.files == []
        watched.look(3)
        assert watched.files == [parse(TEXT)]

    def test_content_that_is_still_changing_is_waited_for(self, watched):
        for version in range(5):
            watched.write(TEXT.replace('"1"', str(version)))
            watched.look()
        assert watched.files == []

    def test_a_wrong_file_is_reported_once_and_then_a_right_one(self, watched):
        watched.write("name: [\n")
        watched.look(3)
        assert len(watched.errors) == 1
        assert watched.files == []
        watched.write(TEXT)
        watched.look(2)
        assert watched.files == [parse(TEXT)]
        assert watched.errors[1:] == [""]

    def test_a_file_that_is_gone_for_a_moment_is_no_change_and_no_error_afterwards(self, watched):
        watched.write(TEXT)
        watched.look(2)
        watched.path.unlink()
        watched.look()
        assert "cannot be read" in watched.errors[0]
        watched.write(TEXT)
        watched.look(2)
        assert watched.files == [parse(TEXT)]
        assert watched.errors[1:] == [""]

    def test_a_file_of_another_model_is_an_error_until_it_changes(self, watched):
        watched.write(TEXT.replace("tiny", "other", 1))
        watched.look(2)
        watched.path.unlink()
        watched.look()
        watched.write(TEXT.replace("tiny", "other", 1))
        watched.look(2)
        name = "name is other, but this server was started for tiny"
        assert [watched.errors[0], watched.errors[-1]] == [name, name]
        assert watched.files == []

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
    def test_what_is_no_file_is_an_error_and_the_next_file_is_followed(self, watched, make):
        make(watched.path)
        watched.look(2)
        assert watched.errors[0].startswith("it is a ")
        other = watched.path.with_name("other")
        watched.path.rename(other)
        watched.write(TEXT)
        watched.look(2)
        assert watched.files == [parse(TEXT)]


class TestLatest:
    @pytest.fixture
    def models(self, tmp_path):
        for version in ("2", "10", "11"):
            (tmp_path / version).mkdir()
        for version in ("2", "10"):
            (tmp_path / version / "antipode.json").write_text("{}")
        return tmp_path

    def test_a_new_one_is_reported(self, models, watched):
        watched.write(f"name: tiny\npath: {models}\npolicy: latest\n")
        watched.look(3)
        assert [file.version for file in watched.files] == ["10"]
        (models / "11" / "antipode.json").write_text("{}")
        watched.look(2)
        assert [file.version for file in watched.files] == ["10", "11"]

    def test_a_folder_that_cannot_be_listed_is_an_error_until_it_can(self, tmp_path, watched):
        folder = tmp_path / "models"
        watched.write(f"name: tiny\npath: {folder}\npolicy: latest\n")
        watched.look(3)
        assert "cannot be listed" in watched.errors[0]
        (folder / "3").mkdir(parents=True)
        (folder / "3" / "antipode.json").write_text("{}")
        watched.look()
        assert [file.version for file in watched.files] == ["3"]
        assert watched.errors[1:] == [""]


class TestStart:
    def started(self, path, text, version="1"):
        watched = Watched(path, Started(text.encode(), version))
        watched.watcher._thread = NoThread()
        watched.watcher.start()
        return watched

    def test_the_file_that_the_server_was_started_with_is_followed_before_any_look(self, tmp_path):
        watched = self.started(tmp_path / "model.yaml", TEXT)
        assert watched.files == [parse(TEXT)]

    def test_the_started_file_is_followed_again_only_when_it_changes(self, tmp_path):
        """Or it would undo what a command asked for in the meantime."""
        watched = self.started(tmp_path / "model.yaml", TEXT)
        watched.look()
        watched.write(TEXT)
        watched.look(3)
        assert watched.files == [parse(TEXT)]
        watched.write(TEXT.replace('"1"', '"2"'))
        watched.look(2)
        assert [file.version for file in watched.files] == ["1", "2"]

    def test_the_latest_version_is_the_one_that_the_server_started_with(self, tmp_path):
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "antipode.json").write_text("{}")
        text = f"name: tiny\npath: {tmp_path}\npolicy: latest\n"
        watched = self.started(tmp_path / "model.yaml", text)
        watched.write(text)
        watched.look(3)
        assert watched.files == [ModelFile("tiny", str(tmp_path), "1")]

    def test_what_is_served_without_a_number_is_not_taken_for_the_latest(self, tmp_path):
        (tmp_path / "3").mkdir()
        (tmp_path / "3" / "antipode.json").write_text("{}")
        text = f"name: tiny\npath: {tmp_path}\npolicy: latest\n"
        watched = self.started(tmp_path / "model.yaml", text, version="")
        watched.write(text)
        watched.look(3)
        assert watched.files == [ModelFile("tiny", str(tmp_path), "3")]


def wait(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class NoThread:
    def start(self):
        pass


def test_an_exception_that_nobody_foresaw_is_reported_and_the_next_file_is_followed(
    tmp_path, monkeypatch
):
    watched = Watched(tmp_path / "model.yaml")
    watched.write("name: broken\n")

    def parse_or_break(content):
        if b"broken" in content:
            raise RuntimeError("nobody foresaw this")
        return parse_model_config(content)

    monkeypatch.setattr(model_file_watcher, "parse_model_config", parse_or_break)
    monkeypatch.setattr(model_file_watcher, "_POLL_SECONDS", 0.01)
    before = fault_counts().get("model-config", 0)
    watched.watcher.start()
    wait(lambda: watched.errors)
    assert "its watcher failed: RuntimeError('nobody foresaw this')" in watched.errors[0]
    watched.write(TEXT)
    wait(lambda: watched.files)
    wait(lambda: watched.errors[-1] == "")
    assert watched.files == [parse(TEXT)]
    assert fault_counts()["model-config"] == before + 1


def test_a_mount_that_does_not_answer_is_reported_until_it_does(tmp_path, monkeypatch):
    watched = Watched(tmp_path / "model.yaml")
    watched.write(TEXT)
    answers = threading.Event()

    def read_slowly(path):
        answers.wait()
        return read_model_file(path)

    monkeypatch.setattr(model_file_watcher, "read_model_file", read_slowly)
    monkeypatch.setattr(model_file_watcher, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(model_file_watcher, "_LONGEST_LOOK_SECONDS", 0.05)
    watched.watcher.start()
    wait(lambda: watched.errors)
    assert "has not answered for" in watched.errors[0]
    answers.set()
    wait(lambda: watched.errors[-1] == "" and watched.files)
    assert watched.files == [parse(TEXT)]
