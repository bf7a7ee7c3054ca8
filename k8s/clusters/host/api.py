"""A small client of the Kubernetes API: read, write and watch objects as JSON.

Knows resources only as paths, such as /api/v1/nodes. An error of the API server is an ApiError with
its status code and message.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

type Object = dict[str, Any]
GONE, NOT_FOUND, CONFLICT = 410, 404, 409
_MERGE = "application/strategic-merge-patch+json"
_APPLY = "application/apply-patch+yaml"
_RETRY_SECONDS = 0.5


class ApiError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Event:
    """`kind` is ADDED, MODIFIED or DELETED."""

    kind: str
    thing: Object


class Api:
    """One user of an API server. `warnings` are those of all answers. The caller closes it."""

    def __init__(self, url: str, authority: Path, token: str) -> None:
        self.warnings: list[str] = []
        context = ssl.create_default_context(cafile=str(authority))
        self._http = httpx.AsyncClient(
            base_url=url,
            verify=context,
            trust_env=False,
            timeout=httpx.Timeout(30, read=30, pool=None),
            limits=httpx.Limits(max_connections=None),
            headers={"authorization": f"Bearer {token}"},
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def get(self, path: str, **query: str) -> Object:
        return await self._send("GET", path, params=query)

    async def list(self, path: str, **query: str) -> list[Object]:
        items: list[Object] = (await self.get(path, **query))["items"]
        return items

    async def find(self, path: str) -> Object | None:
        """None if there is no such object."""
        try:
            return await self.get(path)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            return None

    async def create(self, path: str, thing: Object) -> Object:
        return await self._send("POST", path, json=thing)

    async def apply(self, path: str, thing: Object, **query: str) -> Object:
        """Server-side apply, as `kubectl apply --server-side --validate=strict`."""
        query = {"fieldManager": "lab", "force": "true", "fieldValidation": "Strict"} | query
        return await self._send(
            "PATCH", path, content=json.dumps(thing), params=query, headers={"content-type": _APPLY}
        )

    async def patch(self, path: str, change: Object) -> Object:
        """Strategic merge: lists of Kubernetes' own kinds merge by their keys."""
        return await self._send(
            "PATCH", path, content=json.dumps(change), headers={"content-type": _MERGE}
        )

    async def replace(self, path: str, thing: Object) -> Object:
        return await self._send("PUT", path, json=thing)

    async def delete(self, path: str, options: Object | None = None) -> None:
        """Nothing happens if there is no such object, or if its uid is another by now."""
        try:
            await self._send("DELETE", path, json=options or {})
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):
                raise

    async def watch(self, path: str, **query: str) -> AsyncIterator[Event]:
        """Every object, then every change, for ever. Where the API server is away, it is asked
        again; then objects that are gone meanwhile come as DELETED.
        """
        known: dict[str, Object] = {}
        while True:
            try:
                async for event in self._watch_once(path, known, query):
                    yield event
            except (httpx.HTTPError, ApiError):
                await asyncio.sleep(_RETRY_SECONDS)

    async def _watch_once(
        self, path: str, known: dict[str, Object], query: dict[str, str]
    ) -> AsyncIterator[Event]:
        """List, report what differs from `known`, and follow until the connection ends."""
        listed = await self.get(path, **query)
        there = {thing["metadata"]["uid"]: thing for thing in listed["items"]}
        for uid in known.keys() - there.keys():
            yield Event("DELETED", known.pop(uid))
        for uid, thing in there.items():
            yield Event("MODIFIED" if uid in known else "ADDED", thing)
            known[uid] = thing
        revision = listed["metadata"]["resourceVersion"]
        more = {"watch": "true", "resourceVersion": revision, "timeoutSeconds": "600"}
        timeout = httpx.Timeout(30, read=None)
        async with self._http.stream("GET", path, params=query | more, timeout=timeout) as answer:
            if answer.status_code != httpx.codes.OK:
                raise ApiError(answer.status_code, (await answer.aread()).decode())
            async for line in answer.aiter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(GONE, event["object"].get("message", ""))
                thing = event["object"]
                if event["type"] == "DELETED":
                    known.pop(thing["metadata"]["uid"], None)
                else:
                    known[thing["metadata"]["uid"]] = thing
                yield Event(event["type"], thing)

    async def _send(self, method: str, path: str, **options: Any) -> Object:
        if "json" in options:
            options["content"] = json.dumps(options.pop("json"))
            options["headers"] = {"content-type": "application/json"}
        answer = await self._http.request(method, path, **options)
        self.warnings += answer.headers.get_list("warning")
        if answer.is_error:
            raise ApiError(answer.status_code, _message(answer))
        body: Object = answer.json()
        return body


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError):
        return answer.text[:500]
