"""A server that is a container's first process can be ended before it has begun to serve."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

AS_FIRST = ("unshare", "--pid", "--fork", "--kill-child")
WAITING = "import server.first_process, time; print('imported', flush=True); time.sleep(60)"


def can_be_first() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*AS_FIRST, "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_be_first(), reason="this user may not make a namespace of processes")
def test_the_first_process_of_a_container_ends_on_sigterm_while_it_imports():
    with subprocess.Popen(
        [*AS_FIRST, sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True
    ) as outside:
        assert outside.stdout is not None
        assert outside.stdout.readline() == "imported\n"
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
        subprocess.run(["kill", f"-{signal.SIGTERM:d}", *children], check=True)
        assert outside.wait(timeout=20) == 0


def test_the_command_line_imports_it_before_all_that_takes_time():
    code = "import sys, server.__main__; print([m for m in sys.modules if m.startswith('server.')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    names = done.stdout.strip("[]\n").replace("'", "").split(", ")
    assert names.index("server.first_process") < names.index("server.commands")
