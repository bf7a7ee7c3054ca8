"""Every rule that a controller enforces leads to a test, and the lab's rules are all among them."""

from __future__ import annotations

import re

import pytest

from k8s.clusters.control_plane.policies import RULES
from tests.docs.pages import ROOT
from tests.docs.test_reliability import TESTS

PAGE = (ROOT / "docs" / "controllers.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| rule |")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2])
def test_a_rule_of_a_controller_leads_to_a_test_that_exists(row):
    _, controller, demanded, test = row
    assert controller
    assert demanded
    (name,) = re.findall(r"`(test_\w+)`", test)
    assert name in TESTS


def test_every_rule_of_the_lab_has_a_row():
    assert {row[0] for row in ROWS} - {""} == {rule.name for rule in RULES}
