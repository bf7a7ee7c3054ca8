"""Every test's name is a statement by itself: a report of failures shows names and nothing around.

Read off the source. Knows nothing of what a test does, nor whether its name is true.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# A name that opens with one of these leans on the test before it, on its class or on its file.
CONJUNCTIONS = {"and", "also", "but", "or", "nor", "yet", "so", "then", "because"}
PRONOUNS = {"it", "its", "he", "she", "his", "her", "they", "their", "them", "this", "that"}
PRONOUNS |= {"these", "those", "there", "which", "who", "whose", "such"}
VERBS = {"is", "are", "was", "were", "has", "have", "does", "do"}
LEANING = CONJUNCTIONS | PRONOUNS | VERBS
FEWEST_WORDS = 3


def names(source: str) -> Iterator[str]:
    """The names of all tests in a module, those in classes too."""
    for node in ast.walk(ast.parse(source)):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and node.name.startswith("test_"):
            yield node.name


def says_nothing_by_itself(name: str) -> bool:
    first, *others = name.removeprefix("test_").split("_")
    follows = f"{first}_{others[0]}" if others else ""
    return first in LEANING or follows == "one_that" or 1 + len(others) < FEWEST_WORDS


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS))
)
def test_every_name_is_a_statement(path):
    assert [name for name in names(path.read_text()) if says_nothing_by_itself(name)] == []


@pytest.mark.parametrize(
    "name", ["test_and_keeps_it", "test_they_wait_on", "test_one_that_is_killed_ends", "test_usage"]
)
def test_a_name_that_leans_on_another_is_refused(name):
    assert says_nothing_by_itself(name)


@pytest.mark.parametrize("name", ["test_items_are_sorted", "test_one_host_serves_all"])
def test_a_statement_is_no_leaning_name(name):
    assert not says_nothing_by_itself(name)


def test_names_in_classes_are_found_too():
    source = "class TestA:\n    async def test_b(self): ...\n\ndef test_c(): ...\ndef d(): ...\n"
    assert set(names(source)) == {"test_b", "test_c"}
