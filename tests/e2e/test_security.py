"""TLS, keys, the access log and traces in a server as an operator starts it."""

from __future__ import annotations

import concurrent.futures
import socket
import ssl
import threading

import grpc
import httpx
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.api.access.keys import BEARER_OF_LIMITED, KEY, LIMITED
from tests.certificates import Authority
from tests.e2e.servers import FAKE, first_free_port, wait_for

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that an exporter sends by OTLP."""

    def __init__(self):
        self.spans = []
        self.resources = []
        self._lock = threading.Lock()

    def Export(self, request, context):
        with self._lock:
            for batch in request.resource_spans:
                self.resources.append({a.key: a.value for a in batch.resource.attributes})
                for scope in batch.scope_spans:
                    self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def receiver():
    receiver, port = Receiver(), first_free_port()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    receiver.address = f"http://127.0.0.1:{port}"
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    yield receiver
    server.stop(None)


def get_as_limited(client):
    return client.get("/v1/models", headers=BEARER_OF_LIMITED)


def test_a_secured_server_serves_logs_and_traces_only_callers_with_a_key(start, tmp_path, receiver):
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    (tmp_path / "keys").write_text(f"search: {KEY}\nbatch: {LIMITED} requests_per_minute=4\n")
    server = start(
        FAKE,
        "--api-processes=2",
        f"--api-keys-file={tmp_path}/keys",
        f"--tls-cert-file={pair.certificate}",
        f"--tls-key-file={pair.key}",
        "--tracing=true",
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.address,
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_BSP_SCHEDULE_DELAY="100",
    ).wait_ready(num_api_processes=2)
    context = ssl.create_default_context(cafile=authority.file)
    address = server.http.replace("http://", "https://")
    with httpx.Client(base_url=address, verify=context, trust_env=False, timeout=10) as client:
        body = {"prompt": "secret", "max_tokens": 5, "ignore_eos": True}
        assert client.post("/v1/completions", json=body).status_code == 401
        headers = {
            "authorization": f"Bearer {KEY}",
            "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
        }
        assert client.post("/v1/completions", json=body, headers=headers).status_code == 200
        expected = 'antipode_key_calls_total{key="search"} 1.0'
        wait_for(lambda: expected in client.get("/metrics").text, "the count of the key")
        # One connection may use all of a budget, whichever process has it, and no other adds to it.
        statuses = [get_as_limited(client).status_code for _ in range(5)]
    assert statuses == [200] * 4 + [429]
    for _ in range(8):
        with httpx.Client(base_url=address, verify=context, trust_env=False) as client:
            assert get_as_limited(client).status_code == 429
    with pytest.raises(httpx.HTTPError):
        server.get("/readyz")
    host, port = server.grpc.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as stranger:
        stranger.sendall(bytes(100))
        stranger.recv(1)
    served, refused = (
        next(line for line in server.log if line["message"] == "call" and line["key"] == key)
        for key in ("search", "none")
    )
    assert (served["status"], served["trace_id"]) == (200, TRACE)
    assert (served["generated_tokens"], refused["status"]) == (5, 401)
    assert KEY not in server.log_path.read_text()
    assert "secret" not in server.log_path.read_text()
    wanted = {"queue", "prefill", "decode", "POST /v1/completions"}
    wait_for(lambda: wanted <= {span.name for span in receiver.spans}, "the spans")
    ours = [span for span in receiver.spans if span.trace_id.hex() == TRACE]
    assert {"queue", "prefill", "decode"} <= {span.name for span in ours}
    assert receiver.resources[0]["service.name"].string_value == "antipode"
    server.terminate()
    assert server.wait_exit() == 0
    assert [line for line in server.log if "severity" not in line] == []
