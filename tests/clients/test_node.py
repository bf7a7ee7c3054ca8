"""The JavaScript clients, as one test: Node's own runner reports each of theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("node")


@pytest.mark.skipif(not (FOLDER / "node_modules").is_dir(), reason="npm did not install them")
@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
def test_the_javascript_clients_pass_their_own_tests(server, model):
    environment = os.environ | {"ANTIPODE_URL": server, "ANTIPODE_MODEL": model}
    command = ["node", "--test", "clients.test.mjs"]
    ended = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
