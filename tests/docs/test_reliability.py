"""Every promise of the fault matrix names a test that exists, and says what was seen."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| fault |")
]
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_names_a_test_that_exists_and_its_figures(row):
    fault, promise, test, figures = row
    assert fault
    assert promise
    assert figures
    names = re.findall(r"`(test_\w+)`", test)
    assert names
    assert set(names) <= TESTS


def test_the_matrix_has_rows():
    assert len(ROWS) >= 30
