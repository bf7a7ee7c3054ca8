"""What the Go command cannot do on this machine, and what is wrong with a module.

A fake Go command stands on the PATH: a script that says what the real one says.
"""

from __future__ import annotations

import os
import time

import pytest

from k8s.clusters.control_plane.go_command import GoCommand
from k8s.clusters.host.unavailable import UnavailableError


@pytest.fixture
def fake_go(tmp_path, monkeypatch):
    """Writes the script that stands for the Go command."""

    def write(script: str) -> None:
        program = tmp_path / "bin" / "go"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return write


def build(folder, seconds: float = 60.0) -> None:
    GoCommand(folder, time.monotonic() + seconds).build("example.com/it", ["-s"], folder / "it")


def test_modules_that_cannot_be_reached_are_no_fault(tmp_path, fake_go):
    fake_go('echo "it@v1: dial tcp: lookup proxy: no such host" >&2; exit 1')
    with pytest.raises(UnavailableError, match=r"could not fetch .* no such host"):
        build(tmp_path)


@pytest.mark.parametrize(
    "words", ["checksum mismatch", "missing go.sum entry for module", "SECURITY ERROR"]
)
def test_modules_that_are_not_what_is_pinned_are_a_fault(tmp_path, fake_go, words):
    fake_go(f'echo "verifying it@v1: {words}" >&2; exit 1')
    with pytest.raises(RuntimeError, match=words) as raised:
        build(tmp_path)
    assert not isinstance(raised.value, UnavailableError)


def test_what_does_not_compile_is_a_fault(tmp_path, fake_go):
    fake_go('[ $1 = list ] || { echo "it.go:1: undefined: x" >&2; exit 1; }')
    with pytest.raises(RuntimeError, match=r"could not build .*\n.*undefined: x") as raised:
        build(tmp_path)
    assert not isinstance(raised.value, UnavailableError)


def test_a_build_that_takes_too_long_ends_with_its_compilers(tmp_path, fake_go):
    compiler = tmp_path / "compiler"
    fake_go(f"[ $1 = list ] || {{ sleep 60 & echo $! > {compiler}; wait; }}")
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"did not finish example\.com/it in time"):
        build(tmp_path, seconds=2.0)
    assert time.monotonic() - began < 30
    pid = compiler.read_text().strip()
    deadline = time.monotonic() + 20
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_source_of_a_module_is_where_the_go_command_says(tmp_path, fake_go):
    fake_go(f'[ "$*" = "mod download -json example.com/it" ] && echo \'{{"Dir": "{tmp_path}"}}\'')
    assert GoCommand(tmp_path).source("example.com/it") == tmp_path


def _runs(pid: str) -> bool:
    """A process that ended but that nobody waited for does not run."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
