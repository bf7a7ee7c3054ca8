"""Reads ORCA load reports as strictly as Envoy does: one bad item discards the whole report.

Knows no server. The rules are those of Envoy's parser in its strictest version.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from server.pb.xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport

_SCALARS = (
    "cpu_utilization",
    "mem_utilization",
    "application_utilization",
    "eps",
    "rps_fractional",
)
_MAPS = ("named_metrics", "utilization", "request_cost")
_IN_TEXT = ("named_metrics", "utilization")

# Names such as `eps` and `utilization.slots`, with their values.
type Items = list[tuple[str, float]]


class RejectedReportError(ValueError):
    """Envoy would discard the report; the message says why."""


def parse_header(value: str) -> Items:
    """The items of a header `endpoint-load-metrics`."""
    form, _, payload = value.partition(" ")
    match form:
        case "JSON":
            return _json(payload)
        case "TEXT":
            return _checked(_text(payload))
        case "BIN":
            try:
                return parse_binary(base64.b64decode(payload, validate=True))
            except ValueError as error:
                raise RejectedReportError(f"no base64: {error}") from None
    raise RejectedReportError(f"the header begins with {form[:20]!r}, not with JSON, TEXT or BIN")


def parse_binary(data: bytes) -> Items:
    """The items of a serialized report, as gRPC's trailer carries it."""
    try:
        message = OrcaLoadReport.FromString(data)
    except DecodeError as error:
        raise RejectedReportError(f"no OrcaLoadReport: {error}") from None
    if len(UnknownFieldSet(message)):
        raise RejectedReportError("the message has a field that the protocol does not have")
    return _checked(_items(message))


def _json(payload: str) -> Items:
    try:
        json.loads(payload, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
        message = json_format.Parse(payload, OrcaLoadReport())
    except (json_format.ParseError, ValueError) as error:
        raise RejectedReportError(f"no JSON of an OrcaLoadReport: {error}") from None
    return _checked(_items(message))


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(found := dict(pairs)) != len(pairs):
        raise RejectedReportError("a name comes twice")
    return found


def _no_constant(name: str) -> float:
    raise RejectedReportError(f"{name} is no number of JSON")


def _text(payload: str) -> Iterator[tuple[str, float]]:
    for item in payload.split(","):
        name, separator, value = item.strip().partition("=")
        if not separator:
            raise RejectedReportError(f"{item.strip()[:40]!r} is not NAME=VALUE")
        group, _, key = name.partition(".")
        if name not in _SCALARS and not (group in _IN_TEXT and key):
            raise RejectedReportError(f"unknown name {name[:40]!r}")
        try:
            yield name, float(value)
        except ValueError:
            raise RejectedReportError(f"{name}: {value[:40]!r} is no number") from None


def _items(message: OrcaLoadReport) -> Iterator[tuple[str, float]]:
    for name in _SCALARS:
        if value := getattr(message, name):
            yield name, value
    for name in _MAPS:
        for key, value in sorted(getattr(message, name).items()):
            yield f"{name}.{key}", value


def _checked(items: Iterator[tuple[str, float]]) -> Items:
    found: dict[str, float] = {}
    for name, value in items:
        if name in found:
            raise RejectedReportError(f"{name} comes twice")
        if not math.isfinite(value) or value < 0:
            raise RejectedReportError(f"{name} is {value}")
        if name.endswith("."):
            raise RejectedReportError("a name is empty")
        found[name] = value
    return list(found.items())
