"""How the lab goes into namespaces of its own."""

from __future__ import annotations

import os
import subprocess

import pytest

from k8s.clusters.host import isolation
from k8s.clusters.host.unavailable import UnavailableError


@pytest.fixture
def executed(monkeypatch):
    """The environment that the lab goes on with."""
    found = {}

    def become(*_):
        found.update(os.environ)
        raise SystemExit

    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]})
    monkeypatch.setattr(os, "execvp", become)
    made = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(isolation.subprocess, "run", lambda *_, **__: made)
    return found


def test_the_lab_forks_without_handlers_that_may_abort_the_child(executed):
    with pytest.raises(SystemExit):
        isolation.go_inside("k8s.clusters", [])
    assert executed["GRPC_ENABLE_FORK_SUPPORT"] == "0"


def test_a_machine_without_a_program_of_the_lab_is_told_which(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="needs unshare on the PATH"):
        isolation.check()


def test_what_the_kernel_refuses_is_told(monkeypatch):
    monkeypatch.setattr(isolation.shutil, "which", lambda program: program)
    refused = subprocess.CompletedProcess([], 1, stderr="RTNETLINK answers: no\n")
    monkeypatch.setattr(isolation.subprocess, "run", lambda *_, **__: refused)
    with pytest.raises(UnavailableError, match=r"run as root.*\(RTNETLINK answers: no\)"):
        isolation.check()
