"""What a Job, its pods and their events mean for the person who waits for the run. Pure functions of API objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from preceptor.conductor.types import JobState, JobStatus

Object = dict[str, Any]
_STUCK = {  # why a container waits: what to do about it
    "ErrImagePull": "check image.registry, image.tag and image.pullSecrets",
    "ImagePullBackOff": "check image.registry, image.tag and image.pullSecrets",
    "InvalidImageName": "check image.registry and learner.image",
    "ErrImageNeverPull": "load the image onto the node, or set image.pullPolicy to IfNotPresent",
    "CreateContainerConfigError": "a Secret or ConfigMap that learner.extraEnv names is missing",
    "CreateContainerError": "see `kubectl describe pod`",
    "RunContainerError": "see `kubectl describe pod`",
    "CrashLoopBackOff": "see `kubectl logs`",
}


def finished(job: Object) -> bool:
    """Whether nothing of the job runs or will run."""
    return _condition(job, "Complete") is not None or _condition(job, "Failed") is not None


def status_of(job: Object, pods: Sequence[Object], events: Iterable[Object] = ()) -> JobStatus:
    """Returns the job's state; while it does not run, the message says why, and what to do.

    Args:
        job: of batch/v1.
        pods: those of the job.
        events: of the job and of its pods; wanted while `needs_events`.
    """
    if _condition(job, "Complete") is not None:
        return JobStatus(JobState.SUCCEEDED)
    failed = _condition(job, "Failed")
    if failed is not None:
        return JobStatus(JobState.FAILED, message=_failure(failed, pods))
    return JobStatus(JobState.RUNNING, message=_why_not_running(job, pods, events))


def needs_events(job: Object, pods: Sequence[Object]) -> bool:
    """Whether only events can say why the job stands still: it is not finished and has no pod."""
    return not finished(job) and not _live(pods)


def newest_failed(pods: Sequence[Object]) -> Object | None:
    """The pod that failed last."""
    ended = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
    return max(ended, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)


def _failure(condition: Object, pods: Sequence[Object]) -> str:
    pod = newest_failed(pods)
    if pod is None:
        return f"{condition.get('reason', 'Failed')}: {condition.get('message', '')}"
    terminated = [s["state"]["terminated"] for s in _containers(pod) if "terminated" in s.get("state", {})]
    why = pod["status"].get("reason") or next((t.get("reason", "") for t in terminated), "")
    codes = ", ".join(f"exit code {t.get('exitCode')}" for t in terminated)
    detail = " ".join(part for part in (codes, f"({why})" if why and why != "Error" else "") if part)
    return f"pod {pod['metadata']['name']}: {detail or 'failed'}"


def _why_not_running(job: Object, pods: Sequence[Object], events: Iterable[Object]) -> str:
    live = _live(pods)
    for pod in live:
        sentence = _stuck_container(pod) or _unscheduled(pod)
        if sentence:
            return sentence
    if live:
        return ""
    warnings = [event for event in events if event.get("type") == "Warning"]
    if warnings:
        newest = max(warnings, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return f"no pod is made: {newest.get('reason')}: {newest.get('message')}"
    ended = newest_failed(pods)
    if ended is not None:
        return f"starts again after {_failure({}, [ended])}"
    return "" if job["status"].get("active") else "waits for a pod"


def _stuck_container(pod: Object) -> str:
    for status in _containers(pod):
        waiting = status.get("state", {}).get("waiting", {})
        advice = _STUCK.get(waiting.get("reason", ""))
        if advice:
            message = waiting.get("message") or f"image {status.get('image')}"
            return f"pod {pod['metadata']['name']} cannot start: {waiting['reason']}: {message}; {advice}"
    return ""


def _unscheduled(pod: Object) -> str:
    for condition in pod["status"].get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return (
                f"no node takes pod {pod['metadata']['name']}: {condition.get('message')}; compare learner.resources, "
                "nodeSelector and tolerations with the nodes"
            )
    return ""


def _containers(pod: Object) -> list[Object]:
    status = pod["status"]
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _live(pods: Sequence[Object]) -> list[Object]:
    return [pod for pod in pods if pod["status"].get("phase") not in ("Succeeded", "Failed")]


def _condition(job: Object, kind: str) -> Object | None:
    conditions = job.get("status", {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)
