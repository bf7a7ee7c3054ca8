"""Requests that schemathesis makes from the OpenAPI document, and what their answers must be.

Imported when its test runs: it takes a second to import, and every worker collects every test.
"""

from __future__ import annotations

from collections.abc import Callable

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.config import (
    CoveragePhaseConfig,
    GenerationConfig,
    PhasesConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)
from schemathesis.pytest.lazy import get_all_tests

from server.api.servers.http_server import create_http_app
from server.api.tokenizers.tokenizer import Tokenizer
from server.config.server_config import ServerConfig
from server.lifecycle import Lifecycle
from tests.api.fakes import FakeEngine, make_health, make_service, small_pretrained


def operations(max_examples: int, *, has_edges: bool) -> dict[str, Callable[[], None]]:
    """What tries each operation: drawn examples and, if asked, the edges of every field."""
    many = settings(
        max_examples=max_examples, deadline=None, suppress_health_check=list(HealthCheck)
    )
    schema = _described(max_examples, has_edges=has_edges)
    tests = get_all_tests(schema=schema, test_func=check, settings=many, given_kwargs=None)
    return {operation.label: test for operation, test in (each.ok() for each in tests)}


def _described(max_examples: int, *, has_edges: bool) -> schemathesis.BaseSchema:
    """The application over an engine that answers everything, through its own document."""
    tokenizer, lifecycle = Tokenizer(small_pretrained()), Lifecycle()
    lifecycle.mark_ready()
    engine = FakeEngine([tokenizer.encode("hello"), FakeEngine.EOS])
    service, health = make_service(engine, tokenizer, lifecycle), make_health(engine, lifecycle)
    generation = GenerationConfig(deterministic=True, max_examples=max_examples)
    edges = CoveragePhaseConfig(enabled=has_edges)
    project = ProjectConfig(generation=generation, phases=PhasesConfig(coverage=edges))
    return schemathesis.openapi.from_asgi(
        "/openapi.json",
        create_http_app(service, health, ServerConfig()),
        config=SchemathesisConfig(projects=ProjectsConfig(default=project)),
    )


def make_plausible(body: object) -> None:
    """Names and dependencies that no schema tells, so that more than refusals are seen."""
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str):
        body["model"] = "small"
    if "top_logprobs" in body:
        body["logprobs"] = True
    for name in ("stream_options", "min_tokens"):
        body.pop(name, None)


def check(case: schemathesis.Case) -> None:
    # A schema cannot say how much the model's context holds or which token ids it has, so data that
    # it allows may still be refused; everything else about the answer must hold.
    if case.meta.generation.mode is GenerationMode.POSITIVE:
        make_plausible(case.body)
    case.call_and_validate(
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
            negative_data_rejection,
        ]
    )
