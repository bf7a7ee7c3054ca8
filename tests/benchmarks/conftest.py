"""The server that is loaded instead of a real one."""

from __future__ import annotations

import threading
from http.server import ThreadingHTTPServer

import pytest

from tests.benchmarks.small_server import FakeServer


@pytest.fixture
def small_server():
    """Its URL."""
    FakeServer.running, FakeServer.asked = None, []
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeServer) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
