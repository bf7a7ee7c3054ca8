"""Sets OpenTelemetry up as the standard OTEL_ variables say.

The library is an extra: without `--tracing` nothing imports it. Knows no call.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

from server.config.setting import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_EXPORTERS = "OTEL_TRACES_EXPORTER"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def check_tracing() -> None:
    """ConfigError if spans could not be sent: a package is missing, or a variable is wrong."""
    try:
        is_there = importlib.util.find_spec("opentelemetry.sdk.trace") is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        raise ConfigError(
            "tracing needs OpenTelemetry, which is not installed: install antipode-server[otel]"
        )
    _kind()


def make_provider(release: str) -> TracerProvider:
    """Where spans come from; it sends them in batches, from a thread of its own."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    attributes = {"service.version": release}
    is_named = "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not is_named and "OTEL_SERVICE_NAME" not in os.environ:
        attributes["service.name"] = "antipode"
    # A collector that does not answer must not hold the process at its end.
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    if (exporter := _exporter(_kind())) is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _kind() -> str:
    """`none`, `console`, `grpc` or `http/protobuf`. ConfigError where there is no exporter."""
    exporter = os.environ.get(_EXPORTERS, "") or "otlp"
    if exporter in ("none", "console"):
        return exporter
    name, kind = next(
        ((name, os.environ[name]) for name in _PROTOCOLS if os.environ.get(name)),
        ("", "http/protobuf"),
    )
    if exporter != "otlp":
        raise ConfigError(f"{_EXPORTERS} is {exporter!r}; it must be otlp, console or none")
    if kind not in ("grpc", "http/protobuf"):
        raise ConfigError(f"{name} is {kind!r}; it must be grpc or http/protobuf")
    return kind


def _exporter(kind: str) -> SpanExporter | None:
    if kind == "none":
        return None
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if kind == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
            OTLPSpanExporter as GrpcExporter,
        )

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
        OTLPSpanExporter as HttpExporter,
    )

    return HttpExporter()
