"""The gateway's chart: where it sends requests, how regions are balanced, and what it asks pods."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import yaml
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection
from helm_python import HelmError

import server.pb
from server.api.antipode_v1 import versions
from server.pb.antipode.v1 import generation_pb2
from server.pb.libtpu import runtime_metric_pb2
from tests.helm.charts import BASE, GATEWAY, HELM, case_values, find, merged, render
from tests.helm.schemas import validate_own

ENVOY = case_values("antipode-gateway", "envoy")
LIBTPU = runtime_metric_pb2.DESCRIPTOR.services_by_name["RuntimeMetricService"].full_name
REGIONAL = case_values("antipode-gateway", "gke-residency")


def grpc_calls():
    """The paths of all calls of the gRPC port.

    The admin port's are not for a gateway, and libtpu's service is one that the server calls.
    """
    names = [one.name for one in pkgutil.walk_packages(server.pb.__path__, "server.pb.")]
    found = [importlib.import_module(name) for name in names if name.endswith("_pb2")]
    services = [one for module in found for one in module.DESCRIPTOR.services_by_name.values()]
    yield from (
        f"/{service.full_name}/{method.name}"
        for service in services
        for method in service.methods
        if service.full_name not in (versions.SERVICE_NAME, LIBTPU)
    )
    yield f"/{health.SERVICE_NAME}/Check"
    yield f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
    yield f"/{reflection.SERVICE_NAME.replace('v1alpha', 'v1')}/ServerReflectionInfo"


def route_of(objects, path):
    """The route whose longest prefix of whole parts matches, as gateways choose."""
    prefixes = [
        (match["path"]["value"].rstrip("/"), one["metadata"]["name"])
        for one in objects
        if one["kind"] == "HTTPRoute"
        for rule in one["spec"]["rules"]
        for match in rule["matches"]
    ]
    return max((p, name) for p, name in prefixes if f"{path}/".startswith(f"{p}/"))[1]


@pytest.mark.parametrize("values", [GATEWAY, REGIONAL, ENVOY], ids=["gke", "region", "envoy"])
class TestProtocols:
    def test_every_grpc_call_of_the_server_goes_to_the_grpc_port(self, values):
        objects = render("antipode-gateway", values)
        calls = list(grpc_calls())
        assert len({call.split("/")[1] for call in calls}) == 7
        assert {call: route_of(objects, call) for call in calls} == dict.fromkeys(
            calls, "prod-grpc"
        )
        backends = [
            one
            for rule in find(objects, "HTTPRoute", "prod-grpc")["spec"]["rules"]
            for one in rule["backendRefs"]
        ]
        assert {one.get("port", 9000) for one in backends} == {9000}
        assert all("http" not in one["name"] for one in backends)

    @pytest.mark.parametrize("path", ["/v1/completions", "/v2/models/m/infer", "/v1/messages"])
    def test_http_goes_to_the_http_port(self, values, path):
        assert route_of(render("antipode-gateway", values), path) == "prod-http"

    def test_a_route_is_no_longer_than_gateways_take(self, values):
        most = {"name": "X-Gateway-Model-Name", "values": [str(i) for i in range(16)]}
        objects = render("antipode-gateway", merged(values, {"requestHeader": most}))
        for one in objects:
            if one["kind"] == "HTTPRoute":
                lengths = [len(rule["matches"]) for rule in one["spec"]["rules"]]
                assert len(lengths) <= 16
                assert max(lengths) <= 64
                assert sum(lengths) <= 128
        assert route_of(objects, "/inference.GRPCInferenceService/ModelInfer") == "prod-grpc"


def test_regions_are_balanced_by_requests_in_flight_if_asked():
    objects = render("antipode-gateway", case_values("antipode-gateway", "gke-in-flight"))
    for name in ("prod-http", "prod-grpc"):
        policy = find(objects, "GCPBackendPolicy", name)["spec"]["default"]
        assert policy["balancingMode"] == "IN_FLIGHT"
        assert policy["maxInFlightRequestsPerEndpoint"] == 64
        assert "customMetrics" not in policy


def test_the_gateway_ends_tls_if_asked():
    objects = render("antipode-gateway", case_values("antipode-gateway", "gke-tls"))
    (listener,) = find(objects, "Gateway")["spec"]["listeners"]
    assert (listener["protocol"], listener["port"]) == ("HTTPS", 443)
    assert listener["tls"]["certificateRefs"] == [{"name": "gateway-certificate"}]


def test_the_gateway_routes_to_what_the_pools_export():
    changes = {"release": "prod", "gke.grpcBackend": "pool"}
    backends = [
        rule["backendRefs"][0]["name"]
        for one in render("antipode-gateway", merged(GATEWAY, changes))
        if one["kind"] == "HTTPRoute"
        for rule in one["spec"]["rules"]
    ]
    both = {"pools.grpc.enabled": True, "pools.appProtocol": True}
    pools = {
        one["metadata"]["name"]
        for one in render("antipode", merged(BASE, both))
        if one["kind"] == "InferencePool"
    }
    assert set(backends) == pools


def test_envoy_asks_each_pool_in_its_own_protocol_whether_it_is_ready():
    objects = render("antipode-gateway", case_values("antipode-gateway", "envoy"))
    routes = {one["metadata"]["name"] for one in objects if one["kind"] == "HTTPRoute"}
    checks = {
        policy["spec"]["targetRefs"][0]["name"]: policy["spec"]["healthCheck"]["active"]
        for policy in objects
        if policy["kind"] == "BackendTrafficPolicy"
    }
    assert checks.keys() == routes == {"prod-http", "prod-grpc"}
    assert checks["prod-http"]["http"]["path"] == "/readyz"
    service = generation_pb2.DESCRIPTOR.services_by_name["Generation"].full_name
    assert checks["prod-grpc"]["grpc"] == {"service": service}


def test_envoy_sends_a_request_again_that_a_killed_server_had_read():
    policies = [one for one in render("antipode-gateway", ENVOY) if "retry" in one.get("spec", {})]
    assert len(policies) == 2
    for policy in policies:
        # reset-before-request would leave out what was already sent on a kept connection.
        assert "reset" in policy["spec"]["retry"]["retryOn"]["triggers"]


NO_HOSTS = [
    *("http://a.b", "a.b:80", "*", "*.a.b", "a", "1", "true", "a..b", "a.b.", "-a.b", "a-.b"),
    *("10.0.0", "10.0.0.256", "fd00::1", "a.1", "A.b", "a b.c", "", "a." * 127 + "b"),
]


class TestBackendsOfEnvoy:
    """Envoy Gateway takes an address as an address, and as a name only one of two labels."""

    def endpoints(self, *hosts):
        backends = [{"host": host, "httpPort": 81} for host in hosts]
        objects = render("antipode-gateway", merged(ENVOY, {"envoy.backends": backends}))
        found = [one for one in objects if one["kind"] == "Backend"]
        for one in found:
            validate_own(one)
        return [one["spec"]["endpoints"] for one in found if "-http-" in one["metadata"]["name"]]

    def test_an_address_is_an_address_and_a_name_a_name(self):
        assert self.endpoints("10.0.0.1", "a.europe-west4.example") == [
            [{"ip": {"address": "10.0.0.1", "port": 81}}],
            [{"fqdn": {"hostname": "a.europe-west4.example", "port": 81}}],
        ]

    @pytest.mark.parametrize("host", NO_HOSTS)
    def test_what_envoy_gateway_would_refuse_is_refused(self, host):
        with pytest.raises(HelmError):
            self.endpoints(host, "b.example")


def test_the_gateways_drain_is_as_long_as_the_servers():
    server = yaml.safe_load((HELM / "antipode" / "values.yaml").read_text())["server"]
    gateway = yaml.safe_load((HELM / "antipode-gateway" / "values.yaml").read_text())
    assert gateway["drainSeconds"] == server["drainTimeoutSeconds"]
    check = gateway["healthCheck"]
    seen_after = check["intervalSeconds"] * check["unhealthyThreshold"]
    assert server["lameDuckSeconds"] > seen_after


class TestGrpcPastThePicker:
    """A picker may hold a gRPC stream back until it is whole: it cannot read what it passes on."""

    @pytest.fixture
    def objects(self):
        return render("antipode-gateway", case_values("antipode-gateway", "gke-service"))

    def test_grpc_goes_to_the_exported_service_and_http_to_the_pool(self, objects):
        export = find(render("antipode", merged(BASE, {"service.export": True})), "ServiceExport")
        grpc, http = (
            find(objects, "HTTPRoute", name)["spec"]["rules"][0]["backendRefs"][0]
            for name in ("prod-grpc", "prod-http")
        )
        assert grpc == {
            "group": export["apiVersion"].partition("/")[0],
            "kind": "ServiceImport",
            "name": "antipode",
            "port": 9000,
        }
        assert http["kind"] == "GCPInferencePoolImport"

    @pytest.mark.parametrize("kind", ["HealthCheckPolicy", "GCPBackendPolicy"])
    def test_the_policies_of_grpc_target_the_exported_service(self, objects, kind):
        target = find(objects, kind, "prod-grpc")["spec"]["targetRef"]
        assert (target["kind"], target["name"]) == ("ServiceImport", "antipode")


def test_regions_are_balanced_by_what_the_pods_export():
    policy = find(render("antipode-gateway", GATEWAY), "GCPBackendPolicy", "prod-http")["spec"]
    by = {one["name"]: one["maxUtilizationPercent"] for one in policy["default"]["customMetrics"]}
    assert by == {"gke.named_metrics.kv-cache": 60, "gke.named_metrics.load": 80}
    exported = yaml.safe_dump(find(render("antipode", BASE), "AutoscalingMetric")["spec"])
    for name in by:
        assert f"name: {name.removeprefix('gke.named_metrics.')}\n" in exported


def test_a_region_is_preferred_or_taken_out():
    changes = {"gke.preferredRegion": "europe-west4", "gke.capacityPercent": {"us-east5": 0}}
    objects = render("antipode-gateway", merged(GATEWAY, changes))
    assert find(objects, "GCPBackendPolicy", "prod-http")["spec"]["default"]["scopes"] == [
        {"selector": {"gke.io/region": "europe-west4"}, "backendPreference": "PREFERRED"},
        {"selector": {"gke.io/region": "us-east5"}, "capacityScalerPercent": 0},
    ]


def test_the_gateway_answers_to_the_given_names_with_a_certificate_of_the_cloud():
    objects = render("antipode-gateway", case_values("antipode-gateway", "gke-service"))
    for name in ("prod-http", "prod-grpc"):
        assert find(objects, "HTTPRoute", name)["spec"]["hostnames"] == ["llm.internal.example"]
    (listener,) = find(objects, "Gateway")["spec"]["listeners"]
    assert listener["tls"]["options"] == {"networking.gke.io/cert-manager-certs": "llm"}
    assert "certificateRefs" not in listener["tls"]


class TestSeveralReleases:
    """Several models share one Gateway: the first release makes it, others add their routes."""

    @pytest.fixture
    def objects(self):
        return render("antipode-gateway", case_values("antipode-gateway", "gke-second-model"))

    def test_a_second_release_adds_routes_to_the_gateway_of_the_first(self, objects):
        assert not [one for one in objects if one["kind"] == "Gateway"]
        for name in ("prod-http", "prod-grpc"):
            spec = find(objects, "HTTPRoute", name)["spec"]
            assert spec["parentRefs"] == [{"name": "gateway"}]
            assert spec["rules"][0]["backendRefs"][0]["name"].startswith("gemma")

    def test_a_route_takes_only_requests_that_name_a_model_of_its_release(self, objects):
        matches = find(objects, "HTTPRoute", "prod-http")["spec"]["rules"][0]["matches"]
        assert [one["headers"] for one in matches] == [
            [{"name": "X-Gateway-Model-Name", "value": "gemma-3-12b"}],
            [{"name": "X-Gateway-Model-Name", "value": "gemma"}],
        ]
        rules = find(objects, "HTTPRoute", "prod-grpc")["spec"]["rules"]
        grpc = [one for rule in rules for one in rule["matches"]]
        assert len(grpc) == 14
        assert all("headers" in one for one in grpc)

    def test_every_object_has_the_common_labels(self, objects):
        assert {one["metadata"]["labels"]["team"] for one in objects} == {"search"}

    def test_without_a_header_a_route_takes_every_request(self):
        route = find(render("antipode-gateway", GATEWAY), "HTTPRoute", "prod-http")
        (match,) = route["spec"]["rules"][0]["matches"]
        assert match == {"path": {"type": "PathPrefix", "value": "/"}}
