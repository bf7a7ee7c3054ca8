"""What the charts and GKE need is in the configuration, and every harmful change is seen."""

from __future__ import annotations

import pytest

from tests.k8s.terraform.configuration import texts
from tests.k8s.terraform.facts import FACTS, violations


def test_the_configuration_has_what_the_charts_and_gke_need():
    assert violations(texts(), FACTS) == []


@pytest.mark.parametrize("fact", FACTS, ids=str)
def test_a_harmful_change_is_seen(fact):
    assert violations(fact.broken(texts()), (fact,)) == [f"{fact}: {fact.why}"]
