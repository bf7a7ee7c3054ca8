"""Stands in for an API server in front of a kubelet: keeps objects, and reports changes.

Has the methods of `Api` that a kubelet calls. Checks nothing and merges only what a kubelet writes.
"""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict

from k8s.clusters.host.api import NOT_FOUND, ApiError, Event


class FakeApi:
    """`objects` by path. A pod's deletion is asked for with `end`."""

    def __init__(self):
        self.objects = {}
        self._watchers = defaultdict(list)

    def put(self, folder, thing, kind="ADDED"):
        """Keep an object and report it, as after somebody wrote it."""
        self.objects[f"{folder}/{thing['metadata']['name']}"] = thing
        self._report(folder, kind, thing)

    def end(self, path, grace):
        thing = self.objects[path]
        thing["metadata"] |= {"deletionTimestamp": "now", "deletionGracePeriodSeconds": grace}
        self._report(path.rpartition("/")[0], "MODIFIED", thing)

    def remove(self, path):
        self._report(path.rpartition("/")[0], "DELETED", self.objects.pop(path))

    def _report(self, folder, kind, thing):
        for watched, queue in self._watchers.items():
            if _is_in(folder, watched):
                for one in queue:
                    one.put_nowait(Event(kind, copy.deepcopy(thing)))

    async def watch(self, path, **query):
        queue = asyncio.Queue()
        self._watchers[path].append(queue)
        wanted = query.get("fieldSelector", "")
        for place, thing in list(self.objects.items()):
            if _is_in(place.rpartition("/")[0], path):
                queue.put_nowait(Event("ADDED", copy.deepcopy(thing)))
        while True:
            event = await queue.get()
            name = event.thing["metadata"]["name"]
            if not wanted.startswith("metadata.name=") or wanted.endswith(f"={name}"):
                yield event

    async def find(self, path):
        return self.objects.get(path)

    async def create(self, folder, thing):
        self.objects[f"{folder}/{thing['metadata']['name']}"] = thing
        return thing

    async def replace(self, path, thing):
        self.objects[path] = thing
        return thing

    async def patch(self, path, change):
        path = path.removesuffix("/status")
        if path not in self.objects:
            raise ApiError(NOT_FOUND, path)
        status = self.objects[path].setdefault("status", {})
        addresses = _merged(status.get("podIPs", []), change["status"].get("podIPs", []))
        status.update(change["status"] | ({"podIPs": addresses} if addresses else {}))
        return self.objects[path]

    async def delete(self, path, options=None):
        if path in self.objects:
            self.remove(path)

    async def aclose(self):
        pass


def _merged(before, change):
    """Of a list in a strategic merge patch, whose entries differ."""
    if {"$patch": "replace"} in change:
        return [entry for entry in change if "$patch" not in entry]
    return [*before, *(entry for entry in change if entry not in before)]


def _is_in(folder, watched):
    """Whether a watch sees a folder: its own, or that of any namespace."""
    return folder == watched or (watched == "/api/v1/pods" and folder.endswith("/pods"))
