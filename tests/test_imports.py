"""Who may know whom, read off the source: a wrong import fails here before it becomes a habit."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRANSPORTS = ("server.api.http", "server.api.grpc")
WEB_LIBRARIES = ("fastapi", "starlette", "uvicorn", "httptools", "grpc", "grpc_health")
ARRAY_LIBRARIES = ("jax", "jaxlib", "numpy", "flax")
POLICY = tuple(
    f"server.engine.{name}"
    for name in (
        "sequence",
        "step",
        "kv_kinds",
        "block_pool",
        "block_manager",
        "scheduler",
        "ranks",
        "policy",
        "admission",
        "outcome",
    )
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, Path]:
    """Every module of the two packages, generated ones left out."""
    paths = [path for package in ("server", "models") for path in (ROOT / package).rglob("*.py")]
    return {module_name(path): path for path in paths if "_pb" not in path.parts}


@cache
def imports(module: str) -> frozenset[str]:
    """All that `module` imports anywhere in it; `from a import b` counts as a.b."""
    return frozenset(_imported(module, ast.parse(sources()[module].read_text())))


def _imported(module: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively, which this test cannot read"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def within(*packages: str) -> list[str]:
    return [module for module in sources() if is_within(module, *packages)]


def imported_by(modules: list[str], *packages: str) -> list[str]:
    """The imports of `packages` in `modules`, as sentences for the failure."""
    return [
        f"{module} imports {name}"
        for module in modules
        for name in sorted(imports(module))
        if is_within(name, *packages)
    ]


def closure(module: str) -> set[str]:
    """The module and every module of ours that importing it imports."""
    found, pending = set(), {module}
    while pending:
        found |= pending
        names = {name for one in pending for name in imports(one)}
        targets = names | {name.rpartition(".")[0] for name in names}
        pending = (targets & sources().keys()) - found
    return found


def test_models_know_neither_the_server_nor_the_web():
    assert imported_by(within("models"), "server", *WEB_LIBRARIES) == []


def test_training_is_needed_by_nothing_and_alone_needs_its_optimizer():
    others = [module for module in sources() if not is_within(module, "models.training")]
    assert imported_by(others, "models.training", "optax") == []


def test_the_engine_knows_no_api():
    assert imported_by(within("server.engine"), "server.api", "server.app", *WEB_LIBRARIES) == []


def test_the_api_knows_the_engine_by_its_frames_alone():
    names = imported_by(within("server.api"), "server.engine", "models")
    assert [name for name in names if not is_within(name.split()[-1], "server.engine.link")] == []


@pytest.mark.parametrize("module", POLICY)
def test_policy_never_sees_arrays(module):
    assert imported_by(sorted(closure(module)), *ARRAY_LIBRARIES, "models") == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_translators_do_not_know_each_other(transport):
    others = [other for other in TRANSPORTS if other != transport]
    assert imported_by(within(transport), *others) == []


def test_the_service_has_no_transport():
    service = [module for module in within("server.api") if not is_within(module, *TRANSPORTS)]
    assert imported_by(service, *TRANSPORTS, *WEB_LIBRARIES) == []


def test_only_the_composition_root_knows_both_transports():
    both = [
        module
        for module in sources()
        if all(imported_by([module], transport) for transport in TRANSPORTS)
    ]
    assert both == ["server.app"]
    assert imported_by(list(sources()), "server.app", "server.engine.process") == []


def test_api_processes_start_without_jax():
    assert imported_by(sorted(closure("server.app")), "jax", "jaxlib", "flax") == []


def test_the_reader_of_imports_sees_what_is_there():
    """A reader that found nothing would let everything through."""
    assert "server.engine.block_manager.BlockManager" in imports("server.engine.scheduler")
    assert "server.engine.sequence" in closure("server.engine.scheduler")
    assert imported_by(["server.engine.engine"], "server.engine.link")
