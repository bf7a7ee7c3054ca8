"""The client's modules are Python 3.10: apps that install it do not choose their Python by it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CLIENT = Path("client/antipode")
MODULES = sorted(CLIENT.glob("*.py"))
OLDEST = (3, 10)
# What the client could be tempted to use of the standard library of Python 3.11 and newer.
NEWER = {
    "typing": {"Self", "Unpack", "Never", "NotRequired", "Required", "assert_never", "override"},
    "asyncio": {"timeout", "timeout_at", "TaskGroup", "Runner"},
    "enum": {"StrEnum"},
    "datetime": {"UTC"},
    "itertools": {"batched"},
}


def unguarded(tree):
    """The nodes that run on every Python: all but the blocks under a condition."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.If | ast.IfExp):
            yield node
            yield from unguarded(node)


def newer_names(tree):
    for node in unguarded(tree):
        match node:
            case ast.ImportFrom(module=module, names=names):
                yield from {name.name for name in names} & NEWER.get(module, set())
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                yield from {name} & NEWER.get(module, set())
            case ast.Name(id="ExceptionGroup" | "BaseExceptionGroup" as name):
                yield name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_is_of_the_oldest_python(path):
    tree = ast.parse(path.read_text(), feature_version=OLDEST)
    assert list(newer_names(tree)) == []
    assert not any(isinstance(node, ast.TypeAlias | ast.TryStar) for node in ast.walk(tree))
    assert not any(getattr(node, "type_params", None) for node in ast.walk(tree))


def test_a_newer_name_is_found():
    tree = ast.parse("import asyncio\nfrom typing import Self\nasyncio.timeout(1)")
    assert list(newer_names(tree)) == ["Self", "timeout"]


def test_the_distribution_says_so():
    assert 'requires-python = ">=3.10"' in (CLIENT.parent / "pyproject.toml").read_text()
