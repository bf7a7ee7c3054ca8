"""Speaks a Kubernetes API server's protocol for a `FakeCluster`, as far as Helm speaks it.

Discovery, and reading, creating, applying, deleting and watching objects as JSON. It knows no
users, and of applying only that of one manager: what is applied replaces what there was.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import yaml

from tests.helm.fake_cluster import FakeCluster, Key, Object, plural

_WATCH_PERIOD_SECONDS = 0.05


@contextmanager
def serving(cluster: FakeCluster) -> Iterator[str]:
    """A kubeconfig by which the cluster is reached, as long as the context lasts."""
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield _kubeconfig(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


def _kubeconfig(address: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": address}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "users": [{"name": "fake", "user": {}}],
        }
    )


class _Handler(BaseHTTPRequestHandler):
    """One request: discovery, or something done to objects of one resource."""

    cluster: FakeCluster
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' output is their own."""

    @property
    def _parts(self) -> list[str]:
        return urlsplit(self.path).path.strip("/").split("/")

    def do_GET(self) -> None:
        match self._parts:
            case ["version"]:
                self._answer({"major": "1", "minor": "34", "gitVersion": "v1.34.2"})
            case ["api"]:
                self._answer({"kind": "APIVersions", "versions": ["v1"]})
            case ["apis"]:
                self._answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": self._groups()})
            case ["api", version]:
                self._answer(self._resources(version))
            case ["apis", group, version]:
                self._answer(self._resources(f"{group}/{version}"))
            case ["openapi", "v2"]:
                # Asked for what version 3 does not have, in another protocol: an empty message.
                self._send(b"", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
            case ["openapi", "v3"]:
                places = {
                    _folder(one): f"/openapi/v3/{_folder(one)}" for one in self.cluster.versions
                }
                paths = {place: {"serverRelativeURL": url} for place, url in places.items()}
                self._answer({"paths": paths})
            case ["openapi", "v3", *folder]:
                self._answer(self._schema("/".join(folder[1:])))
            case ["api" | "apis", *_] as parts:
                self._read(_key(parts))
            case parts:
                self._refuse(HTTPStatus.NOT_FOUND, "NotFound", Key("", "/".join(parts), "", ""))

    def do_POST(self) -> None:
        thing = self._body()
        key = _key(self._parts)._replace(name=thing["metadata"]["name"])
        if key in self.cluster.objects:
            self._refuse(HTTPStatus.CONFLICT, "AlreadyExists", key)
        else:
            self._answer(self.cluster.keep(key, thing), HTTPStatus.CREATED)

    def do_PATCH(self) -> None:
        assert self.headers["Content-Type"].startswith("application/apply-patch"), "only apply"
        self._answer(self.cluster.keep(_key(self._parts), self._body()))

    def do_DELETE(self) -> None:
        self._body()
        key = _key(self._parts)
        if self.cluster.take(key):
            self._answer({"kind": "Status", "apiVersion": "v1", "status": "Success"})
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "NotFound", key)

    def _read(self, key: Key) -> None:
        query = dict(parse_qsl(urlsplit(self.path).query))
        labels = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
        name = query.get("fieldSelector", "").removeprefix("metadata.name=")
        if query.get("watch") == "true":
            self._watch(key, labels, name)
        elif not key.name:
            version, kind = self._kind_of(key)
            items = self.cluster.select(key, labels, name)
            meta = {"resourceVersion": "1"}
            header = {"apiVersion": version, "kind": f"{kind}List", "metadata": meta}
            self._answer({**header, "items": items})
        elif found := self.cluster.objects.get(key):
            self._answer(found)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "NotFound", key)

    def _watch(self, key: Key, labels: dict[str, str], name: str) -> None:
        """Events until the caller has heard enough."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        seen: dict[str, Object] = {}
        has_told = False
        try:
            while True:
                here = self.cluster.select(key, labels, name)
                now = {one["metadata"]["uid"]: one for one in here}
                for event in (*_events(seen, now), *([] if has_told else [self._all_told(key)])):
                    self.wfile.write(json.dumps(event).encode() + b"\n")
                self.wfile.flush()
                seen, has_told = now, True
                time.sleep(_WATCH_PERIOD_SECONDS)
        except (BrokenPipeError, ConnectionResetError):
            return

    def _all_told(self, key: Key) -> Object:
        """The event after those for what was there when the watch began."""
        version, kind = self._kind_of(key)
        meta = {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}
        thing = {"apiVersion": version, "kind": kind, "metadata": meta}
        return {"type": "BOOKMARK", "object": thing}

    def _kind_of(self, key: Key) -> tuple[str, str]:
        return next(
            (version, kind)
            for version in self.cluster.versions
            for kind in self.cluster.kinds(version)
            if (version.rpartition("/")[0], plural(kind)) == key[:2]
        )

    def _groups(self) -> list[Object]:
        groups = []
        for group_version in self.cluster.versions:
            group, _, number = group_version.rpartition("/")
            if group:
                version = {"groupVersion": group_version, "version": number}
                groups.append({"name": group, "versions": [version], "preferredVersion": version})
        return groups

    def _resources(self, group_version: str) -> Object:
        verbs = ["create", "delete", "get", "list", "patch", "watch"]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version,
            "resources": [
                {"name": plural(kind), "kind": kind, "namespaced": is_in, "verbs": verbs}
                for kind, is_in in self.cluster.kinds(group_version).items()
            ],
        }

    def _schema(self, group_version: str) -> Object:
        """Says of each kind that the server checks fields itself, so that Helm does not."""
        group, _, version = group_version.rpartition("/")
        place = {"group": group, "version": version}
        checked = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
        paths = {}
        for kind in self.cluster.kinds(group_version):
            patch = {
                "parameters": checked,
                "responses": {},
                "x-kubernetes-group-version-kind": {**place, "kind": kind},
            }
            paths[f"/{_folder(group_version)}/{plural(kind)}/{{name}}"] = {"patch": patch}
        return {"openapi": "3.0.0", "info": {"title": "fake", "version": "1"}, "paths": paths}

    def _body(self) -> Object:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return yaml.safe_load(raw) or {}

    def _refuse(self, code: HTTPStatus, reason: str, key: Key) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        message = f"{key.plural} {key.name}: {reason}"
        self._answer({**status, "reason": reason, "message": message}, code)

    def _answer(self, body: Object, code: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(body).encode(), "application/json", code)

    def _send(self, body: bytes, content_type: str, code: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _folder(group_version: str) -> str:
    """Where a group's version lies in the API's paths."""
    return f"{'apis' if '/' in group_version else 'api'}/{group_version}"


def _key(parts: list[str]) -> Key:
    """Of a path such as apis/apps/v1/namespaces/llm/deployments/prod."""
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    return Key(group, rest[0], namespace, "".join(rest[1:]))


def _events(before: dict[str, Object], now: dict[str, Object]) -> Iterator[Object]:
    for uid, thing in now.items():
        if uid not in before:
            yield {"type": "ADDED", "object": thing}
        elif before[uid] is not thing:
            yield {"type": "MODIFIED", "object": thing}
    for uid in before.keys() - now.keys():
        yield {"type": "DELETED", "object": before[uid]}
