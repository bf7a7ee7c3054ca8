"""What the chart makes of keys, certificates and objectives."""

from __future__ import annotations

from tests.helm.charts import BASE, case_values, find, merged, pods_of, render


def container_of(values):
    (pod,) = pods_of(render("antipode", values))
    return pod["spec"]["containers"][0], pod["spec"]["volumes"]


def environment_of(values):
    return {variable["name"]: variable["value"] for variable in container_of(values)[0]["env"]}


def test_the_server_reads_keys_and_certificates_from_whole_folders():
    """The kubelet updates no single file in a running pod."""
    container, volumes = container_of(case_values("antipode", "tls"))
    folders = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    files = {v["name"]: v.get("secret", {}).get("items", []) for v in volumes}
    environment = environment_of(case_values("antipode", "tls"))
    for setting, path in environment.items():
        if setting.startswith(("ANTIPODE_TLS", "ANTIPODE_API_KEYS")):
            folder, _, file = path.rpartition("/")
            assert "subPath" not in folders[folder]
            assert file in [item["path"] for item in files[folders[folder]["name"]]]
    assert environment["ANTIPODE_API_KEYS_FILE"] == "/etc/antipode-keys/keys"
    assert environment["ANTIPODE_TLS_CLIENT_CA_FILE"] == "/etc/antipode-tls/ca.crt"


def test_probes_and_scrapes_speak_tls_only_where_the_server_does():
    probes = ("startupProbe", "readinessProbe", "livenessProbe")
    secured, plain = case_values("antipode", "tls"), BASE
    for values, scheme in ((secured, "HTTPS"), (plain, None)):
        container, _ = container_of(values)
        assert {container[probe]["httpGet"].get("scheme") for probe in probes} == {scheme}
    endpoint = find(render("antipode", secured), "PodMonitoring")["spec"]["endpoints"][0]
    assert endpoint["scheme"] == "https"
    assert (
        "scheme"
        not in find(render("antipode", plain), "PodMonitoring", "prod")["spec"]["endpoints"][0]
    )


def test_pods_listen_for_the_gateway_without_keys_too():
    environment = environment_of(BASE)
    assert environment["ANTIPODE_HOST"] == "0.0.0.0"
    assert "ANTIPODE_API_KEYS_FILE" not in environment


def test_the_server_knows_the_priorities_of_the_objectives():
    values = merged(BASE, {"objectives": [{"name": "batch", "priority": -1}]})
    assert environment_of(values)["ANTIPODE_OBJECTIVES"] == "prod-batch-http=-1,prod-batch-grpc=-1"
    made = [o for o in render("antipode", values) if o["kind"] == "InferenceObjective"]
    assert {o["metadata"]["name"] for o in made} <= {"prod-batch-http", "prod-batch-grpc"}
