import argparse
import ast
import re

import pytest

from benchmarks.load.options import make_parser
from server.__main__ import build_parser
from tests.docs.pages import PAGES, ROOT, prose
from tests.docs.test_links import name

_FLAG = re.compile(r"`(--[a-z][a-z-]+)")
# Of Helm, of `make failover` and of `make clusters`.
_OTHERS = {
    "--admission",
    "--envoy-gateway",
    "--groups",
    "--kube-version",
    "--picker",
    "--scenario",
    "--short",
}


def flags(parser: argparse.ArgumentParser) -> set[str]:
    """Every flag of a parser and of the parsers under it."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*map(flags, action.choices.values()))
    return found


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_flag_that_a_page_names_is_a_flag_of_the_command(page):
    known = flags(build_parser()) | flags(make_parser()) | _OTHERS
    assert set(_FLAG.findall(prose(page))) - known == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_python_example_of_a_page_can_be_parsed(page):
    for block in python_blocks(page.read_text()):
        ast.parse(block)


def test_the_flags_of_all_commands_are_found():
    assert {"--http-port", "--slice", "--tolerance", "--json"} <= flags(build_parser())


def test_the_readme_has_python_examples():
    assert len(python_blocks((ROOT / "README.md").read_text())) == 2
