"""What a Job and its pods mean for the person who waits for the run."""

from typing import Any

import pytest

from preceptor.conductor.adapters.kubernetes.reasons import needs_events, status_of
from preceptor.conductor.types import JobState

ACTIVE: dict[str, Any] = {"status": {"active": 1}}


def pod(phase: str = "Pending", name: str = "learner-0", created: str = "1", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "creationTimestamp": created}, "status": {"phase": phase, **status}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return pod(containerStatuses=[{"image": "registry/learner:1", "state": state}])


def ended(code: int, **extra: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": extra.pop("why", "Error")}}
    return pod("Failed", containerStatuses=[{"image": "i", "state": state}], **extra)


def condition(kind: str, **extra: str) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": kind, "status": "True", **extra}]}}


@pytest.mark.parametrize(
    ("pods", "events", "said"),
    [
        ([pod("Running")], [], []),
        ([waiting("ContainerCreating")], [], []),
        ([waiting("ImagePullBackOff", "Back-off pulling")], [], ["Back-off pulling", "image.pullSecrets"]),
        ([waiting("ErrImageNeverPull")], [], ["registry/learner:1", "image.pullPolicy"]),
        (
            [waiting("CreateContainerConfigError", 'secret "x" not found')],
            [],
            ['secret "x" not found', "learner.extraEnv"],
        ),
        (
            [pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: insufficient gpu"}])],
            [],
            ["no node takes pod learner-0", "0/3 nodes: insufficient gpu", "learner.resources"],
        ),
        (
            [],
            [
                {"type": "Warning", "reason": "FailedCreate", "message": "exceeded quota", "lastTimestamp": "2"},
                {"type": "Warning", "reason": "Old", "message": "before", "lastTimestamp": "1"},
                {"type": "Normal", "reason": "Created", "message": "fine", "lastTimestamp": "3"},
            ],
            ["no pod is made: FailedCreate: exceeded quota"],
        ),
        ([ended(137, why="OOMKilled")], [], ["starts again after", "exit code 137 (OOMKilled)"]),
        ([pod("Failed", reason="Evicted")], [], ["starts again after", "Evicted"]),
    ],
)
def test_what_keeps_a_job_from_running_is_a_sentence(
    pods: list[dict[str, Any]], events: list[dict[str, Any]], said: list[str]
) -> None:
    status = status_of(ACTIVE, pods, events)
    assert status.state is JobState.RUNNING
    assert all(part in status.message for part in said), status.message
    assert bool(status.message) == bool(said)


def test_conditions_decide_the_end() -> None:
    assert status_of(condition("Complete"), [ended(143)]).state is JobState.SUCCEEDED
    failed = status_of(condition("Failed", reason="PodFailurePolicy"), [ended(143, created="1"), ended(2, created="2")])
    assert failed.state is JobState.FAILED
    assert "exit code 2" in failed.message
    gone = status_of(condition("Failed", reason="BackoffLimitExceeded", message="limit reached"), [])
    assert gone.message == "BackoffLimitExceeded: limit reached"


def test_events_are_wanted_only_while_no_pod_lives() -> None:
    assert needs_events(ACTIVE, [])
    assert needs_events(ACTIVE, [ended(1)])
    assert not needs_events(ACTIVE, [pod("Running")])
    assert not needs_events(condition("Complete"), [])
