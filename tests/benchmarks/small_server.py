"""A small OpenAI-compatible server, and the fixture that runs it. Fake: it computes nothing."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

PARTS = 3


class FakeServer(BaseHTTPRequestHandler):
    """Answers `PARTS` parts of two tokens; holds each answer until `together` requests run."""

    protocol_version = "HTTP/1.0"
    running: threading.Barrier | None = None
    asked: ClassVar[list] = []

    def do_GET(self):
        self.answer(json.dumps({"data": [{"id": "small"}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        if body.get("prompt") == "bad":
            self.answer(b'{"error": "no"}', status=400)
            return
        if self.running is not None:
            self.running.wait(timeout=10)
        key = "delta" if "messages" in body else "text"
        part = {"delta": {"content": "ab"}} if key == "delta" else {"text": "ab"}
        events = [{"choices": [part]}] * PARTS
        events.append({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 6}})
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        self.answer("".join([*lines, "data: [DONE]\n\n"]).encode())

    def answer(self, content, status=200):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass
