from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings

import pytest

from server.config.server_config import ServerConfig
from server.logs import set_up_logging
from server.processes.supervisor import QUIET_GRPC
from tests.certificates import Authority


@pytest.fixture
def logged():
    """Set logging up with these settings; the function it gives returns the lines so far."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()

    def start(**settings):
        set_up_logging(ServerConfig(**settings), "api-0", stream)
        return lambda: stream.getvalue().splitlines()

    yield start
    logging.captureWarnings(False)
    root.handlers[:], root.level = before


def test_text_is_time_level_process_message_and_extras(logged):
    lines = logged()
    logging.getLogger("server.x").info("done in %d", 3, extra={"request_id": "r-1", "why": "a b"})
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info    api-0  "
        r'done in 3 request_id=r-1 why="a b"',
        lines()[0],
    )


def test_text_cannot_be_forged_by_a_value(logged):
    lines = logged()
    logging.getLogger("x").info("seen", extra={"request_id": "a\nb=1", "other": "", "q": 'say "x"'})
    assert len(lines()) == 1
    assert r'request_id="a\nb=1" other="" q="say \"x\""' in lines()[0]


def test_json_is_one_object_a_line(logged):
    lines = logged(log_format="json")
    logging.getLogger("server.x").warning("über\n%s", "x", extra={"request_id": "r-1", "n": 3})
    (line,) = lines()
    record = json.loads(line)
    assert record.pop("time").endswith("Z")
    assert record == {
        "severity": "WARNING",
        "message": "über\nx",
        "process": "api-0",
        "logger": "server.x",
        "request_id": "r-1",
        "n": 3,
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_traceback_comes_with_its_line(logged, log_format):
    lines = logged(log_format=log_format)
    try:
        raise KeyError("nothing")
    except KeyError:
        logging.getLogger("x").exception("it broke")
    text = "\n".join(lines())
    assert "it broke" in text
    assert "KeyError" in text
    assert (len(lines()) == 1) == (log_format == "json")


def test_the_level_is_obeyed(logged):
    lines = logged(log_level="warning")
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    assert len(lines()) == 1


def test_libraries_speak_up_for_warnings_only(logged):
    lines = logged(log_level="debug")
    logging.getLogger("uvicorn.error").info("Started")
    logging.getLogger("jax").warning("slow")
    assert [line.split()[-1] for line in lines()] == ["slow"]


@pytest.mark.filterwarnings("always")
def test_warnings_become_log_lines(logged):
    lines = logged()
    warnings.warn("old", UserWarning, stacklevel=1)
    assert "UserWarning: old" in lines()[0]


BAD_HANDSHAKES = """
import asyncio, pathlib, sys
from server.config.server_config import ServerConfig
from server.logs import set_up_logging
import grpc
from tests.certificates import Authority

async def main(certificate, key):
    set_up_logging(ServerConfig(log_format="json"), "api-0")
    pairs = [(pathlib.Path(key).read_bytes(), pathlib.Path(certificate).read_bytes())]
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pairs))
    await server.start()
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(bytes(100))
        await reader.read()
        writer.close()
    await server.stop(0)

asyncio.run(main(*sys.argv[1:]))
"""


def test_no_library_writes_lines_of_its_own_about_what_strangers_send(tmp_path):
    """Lines that are no JSON break collectors, and nothing bounds their number."""
    pair = Authority(tmp_path).sign("server")
    environment = os.environ | QUIET_GRPC
    done = subprocess.run(
        [sys.executable, "-c", BAD_HANDSHAKES, str(pair.certificate), str(pair.key)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=True,
    )
    assert [line for line in done.stderr.splitlines() if not line.startswith("{")] == []
