"""The image's default command, as the Dockerfile has it, started here."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.e2e.servers import PROJECT, RunningServer, plain_environment

DOCKERFILE = (PROJECT / "Dockerfile").read_text()


def instruction(name):
    """The list of a Dockerfile's instruction."""
    (line,) = re.findall(rf"^{name} (\[.*)$", DOCKERFILE, re.MULTILINE)
    return json.loads(line)


class ImageServer(RunningServer):
    """The image's command in a folder of its own, on ports of its own."""

    def __init__(self, folder):
        python, *arguments = instruction("ENTRYPOINT")
        assert python.endswith("/bin/python")
        self.log_path = folder / "server.log"
        variables = {
            "ANTIPODE_HOST": "127.0.0.1",
            "ANTIPODE_HTTP_PORT": "0",
            "ANTIPODE_GRPC_PORT": "0",
            "ANTIPODE_LOG_FORMAT": "json",
            "ANTIPODE_COMPILE_CACHE_DIR": str(folder / "xla"),
            "ANTIPODE_MODEL_ROOT": str(folder / "models"),
            "JAX_PLATFORMS": "cpu",
        }
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments, *instruction("CMD")],
                cwd=folder,
                env=plain_environment() | variables,
                stdout=log,
                stderr=log,
            )


@pytest.fixture
def image_server(tmp_path):
    server = ImageServer(tmp_path)
    yield server
    server.terminate()
    assert server.wait_exit() == 0


def test_the_default_command_answers(image_server):
    server = image_server.wait_ready()
    body = {"model": "tiny", "prompt": "def f(", "max_tokens": 4}
    answer = server.post("/v1/completions", body)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] >= 1
