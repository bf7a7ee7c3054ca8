"""The policies by which the lab refuses what GKE's controllers refuse."""

from __future__ import annotations

import pytest

from k8s.clusters.control_plane.custom_resources import KINDS
from k8s.clusters.control_plane.policies import LABEL, RULES, expression, policies, refused
from tests.helm.controller_rules import violations


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_what_a_policy_refuses_breaks_its_rule_and_no_other(rule):
    """The API server may name one rule only: a second would hide that the first does nothing."""
    assert len(violations([refused(rule)])) == 1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_policy_names_a_kind_that_the_lab_knows(rule):
    assert (rule.api_version, rule.kind, rule.plural) in {
        (kind.api_version, kind.name, kind.plural) for kind in KINDS
    }


def test_every_rule_has_a_policy_of_its_own():
    made = [one["metadata"]["name"] for plural, one in policies() if plural.endswith("policies")]
    assert made == [rule.name for rule in RULES]
    assert len({*made}) == len({rule.why for rule in RULES}) == len(RULES) == 10


def test_a_rule_holds_for_every_item_and_where_a_place_is_not_there():
    path = ["spec", "rules[]", "timeouts", "request"]
    assert expression("object", path, "{it} == '1s'") == (
        "(!has(object.spec) || (!has(object.spec.rules) || object.spec.rules.all(rules_, "
        "(!has(rules_.timeouts) || (!has(rules_.timeouts.request) || "
        "(rules_.timeouts.request == '1s'))))))"
    )


def test_a_policy_holds_only_where_routes_are_for_gke():
    bindings = [one for plural, one in policies() if plural.endswith("bindings")]
    assert len(bindings) == len(RULES)
    assert all(
        LABEL in one["spec"]["matchResources"]["namespaceSelector"]["matchLabels"]
        for one in bindings
    )
