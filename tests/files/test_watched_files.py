from __future__ import annotations

import logging

import pytest

from server.files.watched_files import LOOK_SECONDS, WatchedFileError, WatchedFiles


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def until_next_look(self):
        self.now += LOOK_SECONDS


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    return path


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watched(path, clock):
    def read():
        text = path.read_text() if path.exists() else ""
        if not text:
            raise WatchedFileError("the file is empty")
        return text

    return WatchedFiles([path], read, clock)


def test_a_new_content_is_read_at_the_next_look_and_no_sooner(watched, path, clock):
    path.write_text("another")
    assert watched.current() == "one"
    clock.until_next_look()
    assert watched.current() == "another"


def test_a_content_that_cannot_be_used_leaves_the_last_in_force_and_is_logged_once(
    watched, path, clock, caplog
):
    caplog.set_level(logging.ERROR)
    path.write_text("")
    for _ in range(3):
        clock.until_next_look()
        assert watched.current() == "one"
    assert [record.getMessage() for record in caplog.records] == [
        "the file is empty; what was read before stays in force"
    ]
    path.write_text("three")
    clock.until_next_look()
    assert watched.current() == "three"


def test_a_file_that_is_removed_changes_nothing(watched, path, clock):
    path.unlink()
    clock.until_next_look()
    assert watched.current() == "one"


def test_a_link_that_points_elsewhere_is_a_change(path, tmp_path, clock):
    """As Kubernetes replaces the files of a Secret."""
    link = tmp_path / "link"
    link.symlink_to(path)
    watched = WatchedFiles([link], link.read_text, clock)
    other = tmp_path / "other"
    other.write_text("two")
    link.unlink()
    link.symlink_to(other)
    clock.until_next_look()
    assert watched.current() == "two"


def test_files_that_change_while_they_are_read_are_read_again(path, clock):
    contents = ["second", "third"]

    def read():
        text = path.read_text()
        if text != "one" and contents:
            path.write_text(contents.pop(0))
        return text

    watched = WatchedFiles([path], read, clock)
    path.write_text("first")
    for _ in range(2):
        clock.until_next_look()
        assert watched.current() == "one"
    clock.until_next_look()
    assert watched.current() == "third"


def test_the_first_content_must_be_usable(tmp_path):
    with pytest.raises(FileNotFoundError):
        WatchedFiles([tmp_path / "none"], (tmp_path / "none").read_text)
