"""The table of pairs of features: each pair once, each test there, each refusal in the code."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from server.config.config import settings
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "combinations.md").read_text()
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| feature |")
]
CODE = re.sub(
    r'"\s+f?"', "", (ROOT / "server/engine/programs/blueprint/incompatible_settings.py").read_text()
)


def test_each_pair_stands_there_once():
    features = dict.fromkeys(name for row in ROWS for name in row[:2])
    assert {frozenset(row[:2]) for row in ROWS} == {*map(frozenset, combinations(features, 2))}
    assert len(ROWS) == len({row[:2] for row in ROWS}) == 91


@pytest.mark.parametrize("row", [row for row in ROWS if row[2] == "tested"], ids=" and ".join)
def test_a_tested_pair_names_a_test_that_exists(row):
    path, _, name = row[3].strip("`").partition("::")
    assert re.search(rf"def {name}\(", (ROOT / path).read_text())


@pytest.mark.parametrize("row", [row for row in ROWS if row[2] == "refused"], ids=" and ".join)
def test_a_refused_pair_has_the_words_of_its_refusal(row):
    setting, words = re.fullmatch(r'`--([a-z-]+)`: "(.+)"', row[3]).groups()
    assert words in CODE
    assert setting.replace("-", "_") in {one.key for one in settings()}


def test_no_other_state_and_nothing_by_the_others():
    others = [row for row in ROWS if row[2] not in ("tested", "refused")]
    assert {row[2] for row in others} == {"does not apply", "not tried"}
    assert {row[3] for row in others} == {""}
