"""A region's endpoint picker in the way of its HTTP requests, by Envoy's external processing.

The picker names the pod in a header. Where no picker answers, Envoy chooses by itself: that is the
charts' failure mode FailOpen. Pure: changes Envoy's configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

type Json = dict[str, Any]

EXT_PROC_PORT = 9002
CHOSEN = "x-gateway-destination-endpoint"
_EXTENSIONS = "type.googleapis.com/envoy.extensions"
# A picker that says nothing for this long is passed by.
_PATIENCE = "1s"


def add_pool(config: Json, region: str, port: int, pickers: Sequence[str]) -> None:
    """Add a listener whose requests go by the region's picker, to the pods of the HTTP cluster.
    `pickers` are the addresses of the region's ready pickers.
    """
    resources = config["static_resources"]
    listener = _copy(resources["listeners"], f"http-{region}", f"pool-{region}")
    listener["address"]["socket_address"]["port_value"] = port
    [chain] = listener["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    manager["stat_prefix"] = f"pool-{region}"
    manager["http_filters"].insert(0, _external_processing(f"picker-{region}"))
    [host] = manager["route_config"]["virtual_hosts"]
    host["routes"][0]["route"]["cluster"] = f"pool-{region}"
    cluster = _copy(resources["clusters"], f"http-{region}", f"pool-{region}")
    cluster["load_assignment"]["cluster_name"] = f"pool-{region}"
    cluster["load_balancing_policy"] = _as_the_picker_says()
    resources["clusters"].append(_picker(f"picker-{region}", pickers))


def _copy(things: list[Json], name: str, new_name: str) -> Json:
    [found] = [one for one in things if one["name"] == name]
    things.append(deepcopy(found) | {"name": new_name})
    return things[-1]


def _external_processing(cluster: str) -> Json:
    return {
        "name": "envoy.filters.http.ext_proc",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {"envoy_grpc": {"cluster_name": cluster}},
            "failure_mode_allow": True,
            "message_timeout": _PATIENCE,
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": "FULL_DUPLEX_STREAMED",
                "request_trailer_mode": "SEND",
                "response_header_mode": "SEND",
                "response_body_mode": "FULL_DUPLEX_STREAMED",
                "response_trailer_mode": "SEND",
            },
        },
    }


def _as_the_picker_says() -> Json:
    """The pod of the header; for a retry, and without a header, the least busy one."""
    policies = f"{_EXTENSIONS}.load_balancing_policies"
    least = {
        "name": "envoy.load_balancing_policies.least_request",
        "typed_config": {"@type": f"{policies}.least_request.v3.LeastRequest"},
    }
    override = {
        "@type": f"{policies}.override_host.v3.OverrideHost",
        "override_host_sources": [{"header": CHOSEN}],
        "fallback_policy": {"policies": [{"typed_extension_config": least}]},
    }
    name = "envoy.load_balancing_policies.override_host"
    return {"policies": [{"typed_extension_config": {"name": name, "typed_config": override}}]}


def _picker(name: str, addresses: Sequence[str]) -> Json:
    """The picker speaks gRPC over TLS, with a certificate that it makes itself."""
    http2 = f"{_EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"
    tls = f"{_EXTENSIONS}.transport_sockets.tls.v3.UpstreamTlsContext"
    endpoints = [{"endpoint": {"address": _socket(address)}} for address in addresses]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.5s",
        "typed_extension_protocol_options": {
            http2.removeprefix("type.googleapis.com/"): {
                "@type": http2,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": tls, "common_tls_context": {"alpn_protocols": ["h2"]}},
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _socket(address: str) -> Json:
    return {"socket_address": {"address": address, "port_value": EXT_PROC_PORT}}
