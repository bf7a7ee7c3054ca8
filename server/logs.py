"""Writes log lines to standard error: as text for people, as JSON for collectors.

A line has the time (UTC), the level, the process and everything that the caller passed as `extra`,
such as a request id, and the id of the trace that its call belongs to. The text of a prompt or a
completion never reaches a logger.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

from server.config.server_config import ServerConfig
from server.trace_context import current_trace_id

# The attributes of every record; all others came from `extra`.
_OWN_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "color_message",
    "taskName",
}


def set_up_logging(config: ServerConfig, process: str, stream: TextIO | None = None) -> None:
    """Send every logger of this process to one handler, in the configured format."""
    handler = logging.StreamHandler(stream or sys.stderr)
    formatter = JsonFormatter if config.log_format == "json" else TextFormatter
    handler.setFormatter(formatter(process))
    logging.basicConfig(handlers=[handler], level=config.log_level.upper(), force=True)
    for name in ("uvicorn", "jax", "asyncio", "transformers"):
        # Libraries log only warnings: their routine messages do not concern the operator.
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))
    logging.captureWarnings(True)


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the field names that Cloud Logging reads."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _utc(record),
            "severity": record.levelname,
            "message": record.getMessage(),
            "process": self._process,
            "logger": record.name,
            **_extras(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """`time level process message key=value ...`; a traceback follows on its own lines."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        extras = "".join(f" {key}={_quoted(value)}" for key, value in _extras(record).items())
        head = f"{_utc(record)} {record.levelname.lower():<7} {self._process:<6} "
        line = head + record.getMessage() + extras
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _utc(record: logging.LogRecord) -> str:
    clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{clock}.{int(record.msecs):03d}Z"


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    extras = {key: value for key, value in vars(record).items() if key not in _OWN_ATTRIBUTES}
    if trace_id := current_trace_id.get():
        extras["trace_id"] = trace_id
    return extras


def _quoted(value: object) -> str:
    text = str(value)
    is_plain = text != "" and text.isprintable() and not set(text) & set(' "=')
    return text if is_plain else json.dumps(text, ensure_ascii=False)
