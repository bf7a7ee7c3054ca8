"""Names that expressions use exist, and names that exist are used, in every module."""

from __future__ import annotations

import pytest

from tests.k8s.terraform.configuration import texts
from tests.k8s.terraform.references import problems

# A change of the configuration, and what is said of it.
BROKEN = {
    "a variable that is not there": (
        ("modules/network/main.tf", "= var.regions\n", "= var.areas\n"),
        "modules/network: var.areas is not there",
    ),
    "a resource that is not there": (
        ("modules/fleet/main.tf", "google_gke_hub_feature.services]", "google_gke_hub_feature.x]"),
        "modules/fleet: google_gke_hub_feature.x is not there",
    ),
    "a data source that is not there": (
        ("modules/project/main.tf", "data.google_project.this", "data.google_project.that"),
        "modules/project: data.google_project.that is not there",
    ),
    "a variable that nothing uses": (
        ("modules/cluster/tpu.tf", "node_locations = [var.zone]", "node_locations = []"),
        "modules/cluster: var.zone is never used",
    ),
    "an argument too many": (
        ("main.tf", "  group_ports = module", "  ports = module"),
        "module network has no variable ports",
    ),
    "an argument too few": (
        ("main.tf", "  group_ports = module", "  ports = module"),
        "module network does not get group_ports",
    ),
    "an output that is not there": (
        ("quota.tf", "module.settings.quota", "module.settings.limits"),
        "module.settings.limits is not there",
    ),
    "an output that nothing reads": (
        ("quota.tf", "module.settings.quota", "module.settings.limits"),
        "module.settings.quota is never read",
    ),
    "a module that nothing calls": (
        ("main.tf", "./modules/monitoring", "./modules/fleet"),
        "nothing calls modules/monitoring",
    ),
}


def test_every_name_is_there_and_used():
    assert problems(texts()) == []


@pytest.mark.parametrize("change", BROKEN)
def test_a_broken_name_is_seen(change):
    (path, before, after), said = BROKEN[change]
    whole = texts()
    assert before in whole[path]
    assert said in problems({**whole, path: whole[path].replace(before, after)})
