"""What the chart makes of keys, certificates and objectives."""

from __future__ import annotations

import http.server
import json
import ssl
import subprocess
import sys
import threading
from typing import ClassVar

import pytest

from tests.certificates import Authority
from tests.helm.charts import BASE, case_values, find, merged, pods_of, render, render_files


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


NO_POOLS = {"pools.http.enabled": False, "pools.export": False, "service.export": False}
KEY = "0123456789abcdef"


class FakeServer(http.server.BaseHTTPRequestHandler):
    """Completes every prompt, and keeps the headers of the last one."""

    got: ClassVar[dict[str, str]] = {}

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        FakeServer.got = {name.lower(): text for name, text in self.headers.items()}
        usage = {"completion_tokens": 1}
        answer = {"usage": usage, "model_version": "3", "choices": [{"text": ""}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class TestTheTestHook:
    def ask(self, changes, folder, *, is_secured=False):
        """The headers that the hook's program sends to a server, which may speak TLS."""
        (hook,) = [one for one in render("antipode", merged(BASE, changes)) if one["kind"] == "Pod"]
        (container,) = hook["spec"]["containers"]
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        assert paths == (["/etc/antipode-keys"] if "apiKeys.secret" in changes else [])
        (folder / "keys").write_text(f"# of callers\n\n  search: {KEY} tokens_per_minute=9\n")
        with http.server.HTTPServer(("127.0.0.1", 0), FakeServer) as server:
            if is_secured:
                pair = Authority(folder).sign("another.example")
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(pair.certificate, pair.key)
                server.socket = context.wrap_socket(server.socket, server_side=True)
            answering = threading.Thread(target=server.handle_request, daemon=True)
            answering.start()
            program = container["command"][-1].replace("/etc/antipode-keys", str(folder))
            program = program.replace("prod:8000", f"127.0.0.1:{server.server_port}")
            subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
            answering.join()
        return FakeServer.got

    def test_without_keys_the_hook_sends_none(self, tmp_path):
        assert "x-api-key" not in self.ask({}, tmp_path)

    def test_the_hook_sends_the_first_key(self, tmp_path):
        assert self.ask({"apiKeys.secret": "keys"}, tmp_path)["x-api-key"] == KEY

    def test_the_hook_speaks_tls_where_the_server_does(self, tmp_path):
        changes = {"apiKeys.secret": "keys", "tls.secret": "tls"} | NO_POOLS
        assert self.ask(changes, tmp_path, is_secured=True)["x-api-key"] == KEY

    def test_where_callers_need_a_certificate_there_is_none_and_the_notes_say_so(self):
        values = case_values("antipode", "tls")
        assert "Pod" not in {one["kind"] for one in render("antipode", values)}
        notes = render_files("antipode", values)["antipode/templates/NOTES.txt"]
        assert "helm test prod" not in notes
        assert "helm test has none, so it asks nothing" in notes

    @pytest.mark.parametrize("case", ["v6e-2x2", "v6e-4x4", "cpu"])
    def test_the_notes_name_it_where_it_is(self, case):
        values = case_values("antipode", case)
        assert "helm test prod" in render_files("antipode", values)["antipode/templates/NOTES.txt"]
        assert "Pod" in {one["kind"] for one in render("antipode", values)}
