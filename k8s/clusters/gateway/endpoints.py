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
        address
        for one in slices
        for endpoint in one.get("endpoints") or ()
        if endpoint.get("conditions", {}).get("ready", True)
        for address in endpoint["addresses"]
    )


class Endpoints:
    """`on_change` is called whenever a slice is another."""

    def __init__(self, api: Api, on_change: Callable[[], None] = lambda: None) -> None:
        self.on_change = on_change
        self._api = api
        self._slices: dict[str, Object] = {}
        self._task = in_background(self._follow())

    def ready(self, namespace: str, service: str) -> list[str]:
        mine = [
            one
            for one in self._slices.values()
            if one["metadata"]["namespace"] == namespace
            and one["metadata"].get("labels", {}).get(_SERVICE) == service
        ]
        return ready_addresses(mine)

    def names(self, namespace: str) -> Mapping[str, str]:
        """One ready address per Service of the namespace."""
        services = {
            one["metadata"]["labels"][_SERVICE]
            for one in self._slices.values()
            if one["metadata"]["namespace"] == namespace
            and _SERVICE in one["metadata"].get("labels", {})
        }
        found = {service: self.ready(namespace, service) for service in services}
        return {service: addresses[0] for service, addresses in found.items() if addresses}

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
