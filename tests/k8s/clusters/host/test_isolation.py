"""How the lab goes into namespaces of its own."""

from __future__ import annotations

import os
import subprocess

import pytest

from k8s.clusters.host import isolation


@pytest.fixture
def executed(monkeypatch):
    """The environment that the lab goes on with."""
    found = {}

    def become(*_):
        found.update(os.environ)
        raise SystemExit

    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(os, "execvp", become)
    made = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(isolation.subprocess, "run", lambda *_, **__: made)
    return found


def test_the_lab_forks_without_handlers_that_may_abort_the_child(executed):
    with pytest.raises(SystemExit):
        isolation.go_inside("k8s.clusters", [])
    assert executed["GRPC_ENABLE_FORK_SUPPORT"] == "0"
