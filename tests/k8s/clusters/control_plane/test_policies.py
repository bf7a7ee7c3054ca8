"""The policies by which the lab refuses what GKE's controllers refuse."""

from __future__ import annotations

import pytest

from k8s.clusters.control_plane.custom_resources import KINDS
from k8s.clusters.control_plane.policies import LABEL, RULES, policies, refused
from tests.helm.controller_rules import violations


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_what_a_policy_refuses_breaks_a_rule_of_the_controllers(rule):
    assert violations([refused(rule)])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_policy_names_a_kind_that_the_charts_use(rule):
    assert (rule.api_version, rule.kind, rule.plural) in {
        (kind.api_version, kind.name, kind.plural) for kind in KINDS
    }


def test_a_policy_holds_only_where_routes_are_for_gke():
    bindings = [one for plural, one in policies() if plural.endswith("bindings")]
    assert len(bindings) == len(RULES)
    assert all(
        LABEL in one["spec"]["matchResources"]["namespaceSelector"]["matchLabels"]
        for one in bindings
    )
