"""Who may know whom, read off the source: a wrong import fails here before it becomes a habit."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Where each distribution's packages lie. Generated modules import nothing of ours but themselves.
PACKAGES = {"server": ROOT, "models": ROOT, "k8s": ROOT, "antipode": ROOT / "client"}
GENERATED = ("pb", "_pb")
PROTOCOLS = (
    "server.api.openai",
    "server.api.responses",
    "server.api.anthropic",
    "server.api.antipode_v1",
    "server.api.open_inference",
    "server.api.orca",
    "server.api.vllm_engine",
)
TRANSPORTS = ("server.api.http", "server.api.grpc", "server.api.servers", *PROTOCOLS)
WEB_LIBRARIES = ("fastapi", "starlette", "uvicorn", "httptools", "grpc", "grpc_health")
ARRAY_LIBRARIES = ("jax", "jaxlib", "numpy", "flax")

type Graph = Mapping[str, set[str]]


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, Path]:
    """Every module of ours, generated ones left out."""
    return {
        module_name(path, root): path
        for package, root in PACKAGES.items()
        for path in (root / package).rglob("*.py")
        if not set(GENERATED) & set(path.parts)
    }


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


def targets(module: str) -> set[str]:
    """The modules of ours that `module` imports itself."""
    names = imports(module)
    return (names | {name.rpartition(".")[0] for name in names}) & sources().keys()


def closure(module: str) -> set[str]:
    """The module and every module of ours that importing it imports."""
    found, pending = set(), {module}
    while pending:
        found |= pending
        pending = {name for one in pending for name in targets(one)} - found
    return found


def room(module: str) -> str:
    """The folder of a module. A module right in a top package is a room of its own."""
    return module if module.count(".") <= 1 else module.rpartition(".")[0]


def package_graph() -> Graph:
    """Which rooms each room imports."""
    graph: defaultdict[str, set[str]] = defaultdict(set)
    for module in sources():
        graph[room(module)] |= {room(name) for name in targets(module)} - {room(module)}
    return graph


def find_circle(graph: Graph) -> list[str]:
    """A way from a node back to itself, its first node repeated at the end; [] if there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph.get(node, ())):
            if circle := walk(following, [*path, node]):
                return circle
        done.add(node)
        return []

    return next((circle for node in sorted(graph) if (circle := walk(node, []))), [])


def test_no_package_imports_another_that_leads_back_to_it():
    assert " -> ".join(find_circle(package_graph())) == ""


def test_a_circle_of_three_packages_is_found_and_named():
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}
    assert find_circle(graph) == ["a", "b", "c", "a"]


def test_models_know_neither_the_server_nor_the_web():
    assert imported_by(within("models"), "server", *WEB_LIBRARIES) == []


def test_training_is_needed_by_nothing_and_alone_needs_its_optimizer():
    others = [module for module in sources() if not is_within(module, "models.training")]
    assert imported_by(others, "models.training", "optax") == []


@pytest.mark.parametrize("module", within("server.engine"))
def test_the_engine_reaches_no_api(module):
    reached = sorted(closure(module))
    assert [name for name in reached if is_within(name, "server.api", "server.processes")] == []
    assert imported_by(reached, *WEB_LIBRARIES) == []


def test_the_api_reaches_the_engine_by_the_link_only():
    assert imported_by(within("server.api", "server.link"), "server.engine", "models") == []


@pytest.mark.parametrize("module", within("server.engine.policy"))
def test_policy_never_sees_arrays(module):
    assert imported_by(sorted(closure(module)), *ARRAY_LIBRARIES, "models") == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols_do_not_know_each_other(protocol):
    others = [other for other in PROTOCOLS if other != protocol]
    assert imported_by(within(protocol), *others) == []


def test_http_and_grpc_do_not_know_each_other():
    assert imported_by(within("server.api.http", "server.api.openai"), "server.api.grpc") == []
    assert imported_by(within("server.api.grpc", "server.api.antipode_v1"), "server.api.http") == []


def test_the_service_has_no_transport():
    service = [module for module in within("server.api") if not is_within(module, *TRANSPORTS)]
    assert imported_by(service, *TRANSPORTS, *WEB_LIBRARIES) == []


def test_processes_are_imported_by_commands_only():
    others = [m for m in sources() if not is_within(m, "server.processes", "server.commands")]
    assert imported_by(others, "server.processes") == []


def test_nothing_is_unpickled_but_compiled_programs_of_a_trusted_folder():
    running = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
    modules = within("server", "models")
    assert imported_by(modules, *running) == []
    unpickling = "jax.experimental.serialize_executable"
    found = imported_by(modules, unpickling)
    assert found == [f"server.engine.programs.baked imports {unpickling}"]


def test_api_processes_start_without_jax():
    assert (
        imported_by(sorted(closure("server.processes.api.__main__")), "jax", "jaxlib", "flax") == []
    )


def test_the_reader_of_imports_sees_what_is_there():
    """A reader that found nothing would let everything through."""
    scheduler = "server.engine.policy.scheduler"
    assert "server.engine.policy.blocks.block_manager.BlockManager" in imports(scheduler)
    assert "server.engine.policy.sequences.sequence" in closure(scheduler)
    assert "server.engine.policy" in package_graph()["server.engine"]
    assert imported_by(["server.engine.engine"], "server.link.frames")
