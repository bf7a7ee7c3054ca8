"""Envoy Gateway in a region, by its own chart, and a release of the gateway's chart behind it.

The lab gives it a class whose proxies have an address within the cluster, since no load balancer
runs. Knows no servers: the caller names the backends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from k8s.clusters.kubelet.images import CHECKOUT
from k8s.clusters.region import OTHER_NAMESPACE, Region
from k8s.lab.proxy import Address

type Object = dict[str, Any]

RELEASE = "other"
# Envoy Gateway's proxies listen above the ports that only root may have.
_PROXY_PORT = 10_080
_SYSTEM, _CLASS = "envoy-gateway-system", "envoy-gateway"
# The chart of its module lacks what a release fills in. No webhook of the lab's leads into pods.
_VALUES = (
    "global.images.envoyGateway.image=docker.io/envoyproxy/gateway:pinned",
    "global.images.envoyGateway.pullPolicy=IfNotPresent",
    "config.envoyGateway.extensionApis.enableBackend=true",
    "topologyInjector.enabled=false",
)
_RESOLVER = {
    "name": "envoy.network.dns_resolver.getaddrinfo",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.getaddrinfo.v3"
        ".GetAddrInfoDnsResolverConfig"
    },
}
_API = "gateway.envoyproxy.io/v1alpha1"
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_CHART = CHECKOUT / "helm" / "antipode-gateway"
_OWNER = "gateway.envoyproxy.io/owning-gateway-name"
_SECONDS = 180.0
# The objects whose conditions the controllers write, with the conditions that must be true.
_JUDGED = {
    "gateways": ("Accepted", "Programmed"),
    "httproutes": ("Accepted", "ResolvedRefs"),
    "backends": ("Accepted",),
    "backendtrafficpolicies": ("Accepted",),
}


class EnvoyGateway:
    """`source` is the folder of its module."""

    def __init__(self, source: Path, region: Region) -> None:
        self._charts, self._region = source / "charts" / "gateway-helm", region

    async def install(self) -> None:
        """Its definitions, its chart, and a class."""
        for definition in self._definitions():
            path = f"{_DEFINITIONS}/{definition['metadata']['name']}"
            await self._region.api.apply(path, definition)
        await self._region.make_plain_namespace(_SYSTEM)
        await self._region.helm(
            *("install", "envoy-gateway", str(self._charts), "--skip-crds"),
            f"--values={self._charts / 'values.tmpl.yaml'}",
            *(f"--set={value}" for value in _VALUES),
            namespace=_SYSTEM,
        )
        for path, thing in _class():
            await self._region.api.apply(path, thing)

    async def install_routes(self, backends: Sequence[str]) -> None:
        """The gateway's chart; `backends` are IP addresses, the preferred one first."""
        chosen = {"flavour": "envoy", "envoy": {"backends": [{"host": one} for one in backends]}}
        path = self._region.folder / "envoy-gateway.yaml"
        path.write_text(yaml.safe_dump(chosen))
        await self._region.helm(
            "install", RELEASE, str(_CHART), f"--values={path}", namespace=OTHER_NAMESPACE
        )

    async def refusals(self) -> list[str]:
        """What the controllers do not accept; nothing once they accept everything."""
        wrong = ["its controllers judged nothing"]
        try:
            async with asyncio.timeout(_SECONDS):
                while wrong:
                    await asyncio.sleep(0.5)
                    wrong = [words for kind in _JUDGED for words in await self._refused(kind)]
        except TimeoutError:
            return wrong
        return []

    async def _refused(self, kind: str) -> list[str]:
        printed = await self._region.kubectl(
            "get", kind, "--output=json", namespace=OTHER_NAMESPACE
        )
        things = json.loads(printed)["items"]
        if not things:
            return [f"there are no {kind}"]
        return [
            f"{kind} {one['metadata']['name']} is not {condition}"
            for one in things
            for condition in _JUDGED[kind]
            if not is_true(one, condition)
        ]

    async def proxy(self) -> Address:
        """Where its proxy answers, once its pod is ready."""
        async with asyncio.timeout(_SECONDS):
            while not (found := self._ready_proxies()):
                await asyncio.sleep(0.5)
        return Address(_PROXY_PORT, _PROXY_PORT, found[0])

    def _ready_proxies(self) -> list[str]:
        return [
            one.address
            for one in self._region.workers
            if one.pod["metadata"]["labels"].get(_OWNER) == RELEASE and one.is_ready
        ]

    async def uninstall(self) -> None:
        """Both releases, as far as they are there, and every pod of theirs."""
        async with asyncio.timeout(_SECONDS):
            with contextlib.suppress(RuntimeError):
                await self._region.helm("uninstall", RELEASE, namespace=OTHER_NAMESPACE)
            await self._region.kubectl("delete", "gatewayclass", _CLASS, "--ignore-not-found")
            while any(_OWNER in one.pod["metadata"]["labels"] for one in self._region.workers):
                await asyncio.sleep(0.5)
            with contextlib.suppress(RuntimeError):
                await self._region.helm("uninstall", "envoy-gateway", namespace=_SYSTEM)
            while any(one.namespace == _SYSTEM for one in self._region.workers):
                await asyncio.sleep(0.5)

    def _definitions(self) -> list[Object]:
        folder = self._charts / "charts" / "crds" / "crds"
        texts = [path.read_text() for path in sorted(folder.rglob("*.yaml"))]
        found = [one for text in texts for one in yaml.safe_load_all(text) if one]
        return [one for one in found if one["kind"] == "CustomResourceDefinition"]


def is_true(thing: Object, condition: str) -> bool:
    """Whether a condition of an object is true. A route and a policy have conditions of each
    parent: then it must be true of each.
    """
    status = thing.get("status", {})
    places = [status, *status.get("parents", ()), *status.get("ancestors", ())]
    found = [
        one["status"]
        for place in places
        for one in place.get("conditions", ())
        if one["type"] == condition
    ]
    return bool(found) and {*found} == {"True"}


def _class() -> list[tuple[str, Object]]:
    """The class that the chart's Gateway names, how its proxies are reached, and how they find
    Envoy Gateway: by the hosts file, which their own resolver does not read for full names.
    """
    service = {"envoyService": {"type": "ClusterIP"}}
    by_hosts_file = {"op": "add", "path": "/typed_dns_resolver_config", "value": _RESOLVER}
    spec = {
        "provider": {"type": "Kubernetes", "kubernetes": service},
        "bootstrap": {"type": "JSONPatch", "jsonPatches": [by_hosts_file]},
    }
    settings = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "lab"}
    proxies = f"/apis/{_API}/namespaces/{_SYSTEM}/envoyproxies/lab"
    proxy = {"apiVersion": _API, "kind": "EnvoyProxy", "metadata": {"name": "lab"}, "spec": spec}
    controller = "gateway.envoyproxy.io/gatewayclass-controller"
    gateway_class = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": _CLASS},
        "spec": {
            "controllerName": controller,
            "parametersRef": settings | {"namespace": _SYSTEM},
        },
    }
    classes = f"/apis/gateway.networking.k8s.io/v1/gatewayclasses/{_CLASS}"
    return [(proxies, proxy), (classes, gateway_class)]
