"""A pod's status, as a kubelet writes it from the states of its containers. Pure functions."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

type Object = dict[str, Any]
_SIGNALS = 128
_SIGKILL = 9


@dataclass(slots=True)
class ContainerState:
    """What one container does. `state` and `last` have the form of the API's ContainerState."""

    name: str
    image: str
    state: Object = field(default_factory=lambda: waiting("ContainerCreating"))
    last: Object = field(default_factory=dict)
    is_started: bool = False
    is_ready: bool = False
    num_restarts: int = 0

    @property
    def exit_code(self) -> int | None:
        """None while it has not ended."""
        ended = self.state.get("terminated")
        return None if ended is None else int(ended["exitCode"])


def waiting(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason} | ({"message": message} if message else {})}


def running_since(since: str) -> Object:
    return {"running": {"startedAt": since}}


def terminated(code: int, since: str, now: str) -> Object:
    """An exit code above 128 is a signal's number plus 128."""
    reason = "Completed" if code == 0 else "Error"
    ended = {"exitCode": code, "reason": reason, "startedAt": since, "finishedAt": now}
    if code > _SIGNALS:
        ended["signal"] = code - _SIGNALS
    return {"terminated": ended}


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def phase(restart_policy: str, containers: Sequence[ContainerState]) -> str:
    """Pending, Running, Succeeded or Failed."""
    codes = [one.exit_code for one in containers]
    if all(code is not None for code in codes):
        if not any(codes) and restart_policy != "Always":
            return "Succeeded"
        if restart_policy == "Never":
            return "Failed"
    if any("waiting" in one.state and one.num_restarts == 0 for one in containers):
        return "Pending"
    return "Running"


def status_patch(status: Object) -> Object:
    """A strategic merge patch that makes the pod's status this one.

    Such a patch adds to the addresses that are there, and after the loss of a node they are those
    of the pod's former life.
    """
    addresses = status.get("podIPs")
    new = {} if addresses is None else {"podIPs": [{"$patch": "replace"}, *addresses]}
    return {"status": status | new}


def ended_phase(containers: Iterable[ContainerState]) -> str:
    """The phase of a pod that was told to end."""
    return "Succeeded" if all(one.exit_code == 0 for one in containers) else "Failed"


def conditions(
    before: Sequence[Object], containers: Sequence[ContainerState], is_initialized: bool
) -> list[Object]:
    """The kubelet's conditions. A condition keeps its time while its value stays."""
    unready = [one.name for one in containers if not one.is_ready]
    reason = "" if not unready else "ContainersNotReady"
    message = "" if not unready else f"containers with unready status: [{' '.join(unready)}]"
    values = {
        "PodReadyToStartContainers": (True, "", ""),
        "Initialized": (is_initialized, "", ""),
        "ContainersReady": (not unready, reason, message),
        "Ready": (not unready, reason, message),
    }
    old = {one["type"]: one for one in before}
    return [_condition(old.get(kind, {}), kind, *value) for kind, value in values.items()]


def _condition(old: Object, kind: str, is_true: bool, reason: str, message: str) -> Object:
    value = "True" if is_true else "False"
    changed = old.get("lastTransitionTime") if old.get("status") == value else now()
    return {
        "type": kind,
        "status": value,
        "lastTransitionTime": changed,
        "reason": reason or None,
        "message": message or None,
    }


def container_status(one: ContainerState) -> Object:
    return {
        "name": one.name,
        "image": one.image,
        "imageID": f"lab://{one.image}",
        "ready": one.is_ready,
        "started": one.is_started,
        "restartCount": one.num_restarts,
        "state": one.state,
        "lastState": one.last,
    }


def pod_status(
    pod: Object,
    containers: Sequence[ContainerState],
    init: Sequence[ContainerState],
    addresses: Mapping[str, str],
    is_initialized: bool,
) -> Object:
    """The status to write; `addresses` has podIP and hostIP as far as they are known."""
    before = pod.get("status", {}).get("conditions", ())
    found: Object = {
        "startTime": pod.get("status", {}).get("startTime") or now(),
        "phase": phase(pod["spec"].get("restartPolicy", "Always"), containers),
        "conditions": conditions(before, containers, is_initialized),
        "containerStatuses": [container_status(one) for one in containers],
        "initContainerStatuses": [container_status(one) for one in init],
    }
    for kind, plural in (("podIP", "podIPs"), ("hostIP", "hostIPs")):
        if kind in addresses:
            found |= {kind: addresses[kind], plural: [{"ip": addresses[kind]}]}
    return found
