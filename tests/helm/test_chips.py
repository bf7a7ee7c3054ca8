"""How a slice's chips reach the pods: by the device plugin, or by a claim of the DRA driver."""

from __future__ import annotations

import pytest

from tests.helm.charts import BASE, PROJECT, case_values, find, merged, pods_of, render

BY_CLAIM = merged(BASE, {"sliceChips": "claim"})


def requests_of(objects):
    found = find(objects, "ResourceClaimTemplate")["spec"]["spec"]["devices"]["requests"]
    return {one["name"]: one["exactly"] for one in found}


class TestChipsByClaim:
    @pytest.fixture
    def objects(self):
        return render("antipode", BY_CLAIM)

    @pytest.fixture
    def pod(self, objects):
        (pod,) = pods_of(objects)
        return pod["spec"]

    def test_one_template_asks_for_all_chips_and_all_interfaces(self, objects):
        assert requests_of(objects) == {
            "chips": {"deviceClassName": "tpu.google.com", "allocationMode": "All"},
            "netdev": {"deviceClassName": "netdev.google.com", "allocationMode": "All"},
        }

    def test_chips_are_claimed_without_interfaces_too(self):
        objects = render("antipode", merged(BY_CLAIM, {"dranet.enabled": False}))
        assert requests_of(objects).keys() == {"chips"}
        (pod,) = pods_of(objects)
        assert pod["spec"]["resourceClaims"]

    def test_the_pod_claims_its_chips_and_requests_none(self, objects, pod):
        (container,) = pod["containers"]
        (claim,) = pod["resourceClaims"]
        name = find(objects, "ResourceClaimTemplate")["metadata"]["name"]
        assert claim["resourceClaimTemplateName"] == name
        assert container["resources"]["claims"] == [{"name": claim["name"]}]
        assert "google.com/tpu" not in str(container["resources"])

    def test_the_pod_tolerates_the_taint_of_tpu_nodes_itself(self, pod):
        (toleration,) = pod["tolerations"]
        assert toleration == {
            "key": "google.com/tpu",
            "operator": "Exists",
            "effect": "NoSchedule",
        }

    def test_the_pod_goes_to_nodes_of_the_driver_which_the_fleet_can_make(self, pod):
        label = "cloud.google.com/gke-tpu-dra-driver"
        assert pod["nodeSelector"][label] == "true"
        settings = (PROJECT / "k8s/terraform/modules/settings/main.tf").read_text()
        assert f'"{label}" = "true"' in settings

    def test_the_server_knows_which_claim_must_bring_its_chips(self, objects, pod):
        variables = {v["name"]: v["value"] for v in pod["containers"][0]["env"]}
        name = find(objects, "ResourceClaimTemplate")["metadata"]["name"]
        assert variables["ANTIPODE_CHIP_CLAIM_NAME"] == name


def test_the_device_plugin_needs_no_claim_no_toleration_and_no_label():
    (pod,) = pods_of(render("antipode", merged(BASE, {"dranet.enabled": False})))
    assert not {"resourceClaims", "tolerations"} & pod["spec"].keys()
    assert "gke-tpu-dra-driver" not in str(pod)


class TestChipsOfTwoGenerations:
    @pytest.fixture
    def objects(self):
        return render("antipode", case_values("antipode", "chips-of-two-generations"))

    def test_a_claim_takes_the_first_generation_that_is_free(self, objects):
        template = find(objects, "ResourceClaimTemplate")["spec"]["spec"]["devices"]
        (chips,) = template["requests"]
        generations = [
            (one["name"], one["selectors"][0]["cel"]["expression"].split()[-1])
            for one in chips["firstAvailable"]
        ]
        assert generations == [("v6e", '"v6e"'), ("v5e", '"v5litepod"')]
        assert all(one["allocationMode"] == "All" for one in chips["firstAvailable"])

    def test_neither_the_node_nor_the_server_is_bound_to_one_generation(self, objects):
        (pod,) = pods_of(objects)
        variables = {v["name"]: v["value"] for v in pod["spec"]["containers"][0]["env"]}
        assert "ANTIPODE_SLICE_ACCELERATOR" not in variables
        assert variables["ANTIPODE_SLICE_TOPOLOGY"] == "2x2"
        assert pod["spec"]["nodeSelector"] == {
            "cloud.google.com/gke-tpu-topology": "2x2",
            "cloud.google.com/gke-tpu-dra-driver": "true",
        }
