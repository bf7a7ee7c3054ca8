"""The status of a pod, from what its containers do."""

from __future__ import annotations

import pytest

from k8s.clusters.kubelet import status
from k8s.clusters.kubelet.status import ContainerState, conditions, phase, pod_status

SINCE = "2026-01-01T00:00:00Z"


def container(state=None, **others):
    found = ContainerState("server", "image", **others)
    if state is not None:
        found.state = state
    return found


RUNNING = status.running_since(SINCE)
DONE, FAILED = (status.terminated(code, SINCE, SINCE) for code in (0, 1))


@pytest.mark.parametrize(
    ("policy", "states", "expected"),
    [
        ("Always", [status.waiting("ContainerCreating")], "Pending"),
        ("Always", [RUNNING], "Running"),
        ("Always", [FAILED], "Running"),
        ("Always", [DONE], "Running"),
        ("Never", [DONE], "Succeeded"),
        ("Never", [DONE, FAILED], "Failed"),
        ("Never", [DONE, RUNNING], "Running"),
        ("OnFailure", [FAILED], "Running"),
        ("OnFailure", [DONE], "Succeeded"),
    ],
)
def test_the_phase_follows_the_containers_and_the_restart_policy(policy, states, expected):
    assert phase(policy, [container(state) for state in states]) == expected


def test_a_container_that_waits_to_start_again_leaves_its_pod_running():
    waits = container(status.waiting("CrashLoopBackOff"), num_restarts=1)
    assert phase("Always", [waits]) == "Running"


def test_a_pod_is_ready_when_all_its_containers_are():
    ready, unready = container(RUNNING, is_ready=True), container(RUNNING)
    found = {one["type"]: one for one in conditions((), [ready, unready], True)}
    assert found["Ready"]["status"] == "False"
    assert found["Ready"]["reason"] == "ContainersNotReady"
    found = {one["type"]: one for one in conditions((), [ready], True)}
    assert (found["Ready"]["status"], found["ContainersReady"]["status"]) == ("True", "True")


def test_a_condition_keeps_its_time_while_its_value_stays():
    [before] = [one for one in conditions((), [container()], True) if one["type"] == "Ready"]
    before["lastTransitionTime"] = SINCE
    again = {one["type"]: one for one in conditions([before], [container()], True)}
    assert again["Ready"]["lastTransitionTime"] == SINCE
    ready = container(RUNNING, is_ready=True)
    changed = {one["type"]: one for one in conditions([before], [ready], True)}
    assert changed["Ready"]["lastTransitionTime"] != SINCE


def test_an_exit_code_above_128_names_a_signal():
    assert status.terminated(137, SINCE, SINCE)["terminated"]["signal"] == 9
    assert "signal" not in FAILED["terminated"]
    assert DONE["terminated"]["reason"] == "Completed"


def test_addresses_are_written_once_they_are_known():
    pod = {"spec": {}}
    found = pod_status(pod, [container()], [], {"hostIP": "10.1.1.1"}, False)
    assert "podIP" not in found
    found = pod_status(pod, [container()], [], {"podIP": "10.1.1.2"}, False)
    assert (found["podIP"], found["podIPs"]) == ("10.1.1.2", [{"ip": "10.1.1.2"}])


def test_a_pod_that_was_ended_failed_unless_all_containers_exited_with_0():
    assert status.ended_phase([container(DONE)]) == "Succeeded"
    assert status.ended_phase([container(DONE), container(FAILED)]) == "Failed"


def test_a_patch_replaces_the_addresses_of_a_former_life():
    """A strategic merge would keep them, and two of one family are refused."""
    patch = status.status_patch({"phase": "Running", "podIPs": [{"ip": "10.1.2.2"}]})
    assert patch == {
        "status": {
            "phase": "Running",
            "podIPs": [{"$patch": "replace"}, {"ip": "10.1.2.2"}],
        }
    }
    assert status.status_patch({"phase": "Pending"}) == {"status": {"phase": "Pending"}}
