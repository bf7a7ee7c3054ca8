"""The addresses behind a cluster's Services, as its EndpointSlices say, followed as they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from k8s.clusters.host.api import Api
from k8s.clusters.host.tasks import in_background

type Object = dict[str, Any]

_PATH = "/apis/discovery.k8s.io/v1/endpointslices"
_SERVICE = "kubernetes.io/service-name"


def ready_addresses(slices: list[Object]) -> list[str]:
    """Of the ready endpoints, in a stable order. An endpoint that ends is not ready."""
    return sorted(
        address for one in slices for each in _ready(one) for address in each["addresses"]
    )


def service_names(service: str, namespace: str) -> tuple[str, ...]:
    """Within its namespace, and in full. A resolver may ask for the full name with a last dot."""
    full = f"{service}.{namespace}.svc.cluster.local"
    return service, full, f"{full}."


def pod_names(slices: list[Object], service: str, namespace: str) -> dict[str, str]:
    """The address of each pod that has a name under a Service, by its names as DNS knows them."""
    return {
        name: endpoint["addresses"][0]
        for one in slices
        for endpoint in _ready(one)
        if (host := endpoint.get("hostname"))
        for name in (f"{host}.{service}", f"{host}.{service}.{namespace}")
    }


def _ready(one: Object) -> list[Object]:
    found = one.get("endpoints") or ()
    return [each for each in found if each.get("conditions", {}).get("ready", True)]


class Endpoints:
    """`on_change` is called whenever a slice is another."""

    def __init__(self, api: Api, on_change: Callable[[], None] = lambda: None) -> None:
        self.on_change = on_change
        self._api = api
        self._slices: dict[str, Object] = {}
        self._task = in_background(self._follow())

    def ready(self, namespace: str, service: str) -> list[str]:
        return ready_addresses(self._slices_of(namespace, service))

    def names(self, namespace: str) -> Mapping[str, str]:
        """One ready address per Service of the namespace, and that of each pod with a name."""
        services = {
            one["metadata"]["labels"][_SERVICE]
            for one in self._slices.values()
            if one["metadata"]["namespace"] == namespace
            and _SERVICE in one["metadata"].get("labels", {})
        }
        found: dict[str, str] = {}
        for service in sorted(services):
            slices = self._slices_of(namespace, service)
            for address in ready_addresses(slices)[:1]:
                found |= dict.fromkeys(service_names(service, namespace), address)
            found |= pod_names(slices, service, namespace)
        return found

    def _slices_of(self, namespace: str, service: str) -> list[Object]:
        return [
            one
            for one in self._slices.values()
            if one["metadata"]["namespace"] == namespace
            and one["metadata"].get("labels", {}).get(_SERVICE) == service
        ]

    def stop(self) -> None:
        self._task.cancel()

    async def _follow(self) -> None:
        async for event in self._api.watch(_PATH):
            uid = event.thing["metadata"]["uid"]
            if event.kind == "DELETED":
                self._slices.pop(uid, None)
            else:
                self._slices[uid] = event.thing
            self.on_change()
