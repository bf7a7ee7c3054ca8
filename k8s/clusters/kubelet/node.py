"""What the workers of one node share: its API user, its folders, addresses and ConfigMaps.

Knows no pod's life.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k8s.clusters.host.api import Api
from k8s.clusters.host.tasks import in_background
from k8s.clusters.kubelet.environment import decoded
from k8s.clusters.kubelet.images import Image

type Object = dict[str, Any]
type Reference = tuple[str, str, str]

_PLURALS = {"ConfigMap": "configmaps", "Secret": "secrets"}


class Contents:
    """ConfigMaps and Secrets by namespace, kind and name, as long as the node follows them.
    `on_change` is called with each that is another.
    """

    def __init__(self, api: Api) -> None:
        self.on_change: Callable[[Reference], None] = lambda _: None
        self._api = api
        self._found: dict[Reference, dict[str, str]] = {}
        self._tasks: dict[Reference, asyncio.Task[None]] = {}

    def follow(self, namespace: str, kind: str, name: str) -> None:
        key = (namespace, kind, name)
        if key not in self._tasks:
            self._tasks[key] = in_background(self._follow(key))

    def of(self, namespace: str) -> dict[tuple[str, str], dict[str, str]]:
        return {key[1:]: found for key, found in self._found.items() if key[0] == namespace}

    async def _follow(self, key: Reference) -> None:
        """A node may read what its own pods refer to, one by one."""
        namespace, kind, name = key
        path = f"/api/v1/namespaces/{namespace}/{_PLURALS[kind]}"
        async for event in self._api.watch(path, fieldSelector=f"metadata.name={name}"):
            if event.kind == "DELETED":
                self._found.pop(key, None)
            else:
                self._found[key] = decoded(kind, event.thing)
            self.on_change(key)

    def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()


class Addresses:
    """Hands out addresses of a node's range, such as 10.1.3.0/24; none comes twice."""

    def __init__(self, prefix: str) -> None:
        self._prefix, self._last = prefix, 1

    def next(self) -> str:
        self._last += 1
        return f"{self._prefix}.{self._last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """`names` gives the addresses of a namespace's Services, for the pods' hosts file."""

    name: str
    api: Api
    address: str
    gateway: str
    addresses: Addresses
    folder: Path
    buckets: Path
    images: Mapping[str, Image]
    service_host: str
    names: Callable[[str], Mapping[str, str]]
    interfaces: Callable[[], str]
    contents: Contents = field(repr=False)
