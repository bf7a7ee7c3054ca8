"""What the clusters are asked without any load. A check gives what is wrong; nothing is good."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

import httpx

from k8s.clusters import overrides
from k8s.clusters.control_plane import admission
from k8s.clusters.envoy_gateway import EnvoyGateway
from k8s.clusters.gateway.gateway import HTTP_PORT
from k8s.clusters.lab import (
    CHIPS_BY_CLAIM,
    GATEWAY_RELEASE,
    NUM_TPU_NODES,
    RELEASE,
    SETTLE_SECONDS,
    VERSION,
    Clusters,
)
from k8s.clusters.region import NAMESPACE, OTHER_NAMESPACE, Region
from k8s.clusters.shares import SHARED_BY, measure
from k8s.lab.chart_numbers import REGIONS
from k8s.lab.load import undisturbed
from k8s.lab.ports import HOST
from k8s.lab.proxy import Address

type Check = Callable[[Clusters], Awaitable[list[str]]]

_SECONDS_TO_SCHEDULE, _SECONDS_TO_COUNT = 60.0, 20.0
_NUM_ROUTED = 20
_SECOND, _PATIENCE = "second", "--timeout=420s"
# What the scheduler says where the device plugin counts chips, and where claims give them.
_TOO_FEW, _NO_CLAIM = "Insufficient google.com/tpu", "cannot allocate all claims"
# What Kubernetes itself keeps in a namespace.
_OWN = ("configmap/kube-root-ca.crt", "serviceaccount/default")
_KINDS = (
    "all,configmap,secret,serviceaccount,role,rolebinding,poddisruptionbudget,networkpolicy,"
    "resourceclaim,resourceclaimtemplate,persistentvolumeclaim,inferencepool,podmonitoring,rules,"
    "serviceexport,autoscalingmetric,gateway,httproute,gcpbackendpolicy,healthcheckpolicy,"
    "globalrules"
)


async def admitted(clusters: Clusters) -> list[str]:
    """Both charts, each of their case files; and what GKE's controllers refuse is refused."""
    helm = clusters.programs["helm"]
    api = clusters.primary.api
    passed = await admission.unrefused(api, NAMESPACE)
    found = await admission.check(api, helm, NAMESPACE, OTHER_NAMESPACE)
    return [*passed, *(f"{case}: {words}" for case, those in found.items() for words in those)]


async def claims(clusters: Clusters) -> list[str]:
    """Each server has a claim on its node's devices; one replica too many stays pending."""
    return [
        f"{name}: {words}"
        for name, region in clusters.regions.items()
        for words in await _claims_of(clusters, region)
    ]


async def _claims_of(clusters: Clusters, region: Region) -> list[str]:
    expected = _NO_CLAIM if region.name == CHIPS_BY_CLAIM else _TOO_FEW
    reason = ""
    try:
        await clusters.scale(region, NUM_TPU_NODES + 1)
        async with asyncio.timeout(_SECONDS_TO_SCHEDULE):
            # At first a pod waits for its claim to be made.
            while expected not in (reason := await _unscheduled(region)):
                await asyncio.sleep(0.5)
        claimed = await region.api.list(
            f"/apis/resource.k8s.io/v1/namespaces/{NAMESPACE}/resourceclaims"
        )
        held = [one for one in claimed if "allocation" in one.get("status", {})]
        if len(held) != NUM_TPU_NODES:
            return [f"{len(held)} claims are allocated for {NUM_TPU_NODES} nodes"]
        return []
    except TimeoutError:
        return [f"no replica was pending for {expected}, but for: {reason or 'nothing'}"]
    finally:
        await clusters.scale(region, clusters.num_replicas)
        await clusters.settle()


async def _unscheduled(region: Region) -> str:
    """Why the scheduler found no node for a server; "" if every server has one."""
    for pod in await region.api.list(f"/api/v1/namespaces/{NAMESPACE}/pods"):
        for one in pod.get("status", {}).get("conditions", ()):
            if one["type"] == "PodScheduled" and one["status"] == "False":
                return str(one.get("message", ""))
    return ""


async def tested(clusters: Clusters) -> list[str]:
    """`helm test` in each region: a pod of the release generates tokens."""
    wrong = []
    for name, region in clusters.regions.items():
        try:
            await region.helm("test", RELEASE)
        except RuntimeError as failure:
            wrong.append(f"{name}: {failure}")
    return wrong


async def two_releases(clusters: Clusters) -> list[str]:
    """A second release of the server's chart in the namespace of the first: both serve."""
    region = clusters.primary
    await clusters.install_server(region, _SECOND, "--set=replicas=1")
    try:
        await region.kubectl("rollout", "status", f"deployment/{_SECOND}", _PATIENCE)
        for release in (RELEASE, _SECOND):
            await region.helm("test", release)
        return []
    except RuntimeError as failure:
        return [str(failure)]
    finally:
        await region.helm("uninstall", _SECOND)
        while any(one.release == _SECOND for one in region.workers):
            await asyncio.sleep(0.5)


async def shared(clusters: Clusters) -> list[str]:
    """How the primary region's picker shares requests between its two servers."""
    await clusters.until_picked()
    pods = [worker.address for worker in clusters.servers(clusters.primary)]
    pool = f"http://{HOST}:{clusters.gateway.pools[REGIONS[0]]}"
    model = overrides.region_values(REGIONS[0])["model"]["name"]
    found = await measure(pool, pods, model)
    clusters.shares = asdict(found)
    return found.faults()


async def routed(clusters: Clusters) -> list[str]:
    """Envoy Gateway takes the gateway's chart. HTTP and gRPC go by its proxy to the preferred
    region's server, and to the other's at once when that server is killed.
    """
    assert clusters.envoy_gateway is not None
    try:
        return await _routed(clusters, clusters.envoy_gateway)
    finally:
        await clusters.envoy_gateway.uninstall()
        await clusters.settle()


async def _routed(clusters: Clusters, gateway: EnvoyGateway) -> list[str]:
    began = time.monotonic()
    await gateway.install()
    servers = [clusters.servers(region)[0] for region in clusters.regions.values()]
    await gateway.install_routes([one.address for one in servers])
    wrong = await gateway.refusals()
    if wrong:
        return wrong
    proxy = await gateway.proxy()
    clusters.routed = round(time.monotonic() - began, 1)
    wrong = await _through(proxy, servers[0].address, clusters.expected[VERSION])
    for pid in servers[0].pids:
        os.kill(pid, signal.SIGKILL)
    wrong += await _through(proxy, servers[1].address, clusters.expected[VERSION])
    return wrong


async def _through(proxy: Address, server: str, expected: Sequence[list[int]]) -> list[str]:
    """Single requests by HTTP, all of which this server must answer; then every prompt by gRPC."""
    wrong, before = [], await _num_answered(server)
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        url = f"http://{proxy.host}:{proxy.http}/v1/completions"
        body = {"prompt": "a", "max_tokens": 4}
        answers = [await client.post(url, json=body) for _ in range(_NUM_ROUTED)]
    failed = [one for one in answers if one.is_error]
    if failed:
        wrong.append(f"{len(failed)} of {_NUM_ROUTED} requests failed: {failed[0].text}")
    # A server counts a request a moment after it has answered.
    deadline = time.monotonic() + _SECONDS_TO_COUNT
    while (answered := await _num_answered(server) - before) != _NUM_ROUTED:
        if time.monotonic() > deadline:
            wrong.append(f"{server} answered {answered} of {_NUM_ROUTED} requests")
            break
        await asyncio.sleep(0.2)
    if await undisturbed(proxy, len(expected[0])) != expected:
        wrong.append("other tokens come by gRPC through Envoy Gateway")
    return wrong


async def _num_answered(server: str) -> int:
    """How many requests a server has answered to their end."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        text = (await client.get(f"http://{server}:{HTTP_PORT}/metrics")).text
    found = re.findall(
        r'^antipode_requests_total\{.*outcome="(?:stop|length)".*\} (\S+)$', text, re.M
    )
    return int(sum(map(float, found)))


async def uninstalled(clusters: Clusters) -> list[str]:
    """`helm uninstall` leaves no object and no process."""
    await clusters.regions[REGIONS[1]].helm("uninstall", GATEWAY_RELEASE)
    wrong = []
    for name, region in clusters.regions.items():
        await region.helm("uninstall", RELEASE)
        async with asyncio.timeout(SETTLE_SECONDS):
            while region.workers:
                await asyncio.sleep(0.5)
        left: set[str] = set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                while left := await _left(region):
                    await asyncio.sleep(0.5)
        wrong += [f"{name}: {one} is left" for one in sorted(left)]
    return wrong


async def _left(region: Region) -> set[str]:
    """What is in the namespace, without what Kubernetes itself keeps there."""
    printed = await region.kubectl("get", _KINDS, "--output=name", "--ignore-not-found")
    return {*printed.split()} - {*_OWN}


def chosen(clusters: Clusters, *, is_short: bool) -> dict[str, Check]:
    """The checks of a run, without those whose program the lab does not have."""
    lacking = set()
    if not clusters.has_pickers or clusters.num_replicas != SHARED_BY:
        lacking.add("shared")
    if clusters.envoy_gateway is None:
        lacking.add("routed")
    wanted = {*(SHORT if is_short else CHECKS)} - lacking
    return {name: check for name, check in CHECKS.items() if name in wanted}


# In this order; the last one leaves the clusters empty.
CHECKS: dict[str, Check] = {
    "admitted": admitted,
    "tested": tested,
    "two releases": two_releases,
    "claims": claims,
    "shared": shared,
    "routed": routed,
}
LAST: dict[str, Check] = {"uninstalled": uninstalled}
SHORT = ("admitted", "tested", "routed", "uninstalled")
