from __future__ import annotations

import importlib.util

import pytest

from server.api.tracing.setup import check_tracing, make_provider
from server.config.setting import ConfigError


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("TRACES_EXPORTER", "EXPORTER_OTLP_PROTOCOL", "EXPORTER_OTLP_TRACES_PROTOCOL"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    def find(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(ConfigError, match=r"install antipode-server\[otel\]"):
        check_tracing()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "udp"),
    ],
)
def test_a_variable_that_cannot_be_honoured_is_named(monkeypatch, variable, value):
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"{variable} is '{value}'"):
        check_tracing()


@pytest.mark.parametrize("given", [None, "search"])
def test_the_service_has_a_name_unless_the_operator_gives_another(monkeypatch, given):
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    if given:
        monkeypatch.setenv("OTEL_SERVICE_NAME", given)
    attributes = make_provider("1.2.3").resource.attributes
    assert attributes["service.name"] == (given or "antipode")
    assert attributes["service.version"] == "1.2.3"
