"""What the charts and GKE need is in the configuration, and every harmful change is seen."""

from __future__ import annotations

import pytest

from tests.k8s.terraform.configuration import texts
from tests.k8s.terraform.facts import violations
from tests.k8s.terraform.needs import NEEDS


def test_the_configuration_has_what_the_charts_and_gke_need():
    assert violations(texts(), NEEDS) == []


@pytest.mark.parametrize("fact", NEEDS, ids=str)
def test_a_harmful_change_is_seen(fact):
    assert violations(fact.broken(texts()), (fact,)) == [f"{fact}: {fact.why}"]
