"""Learner jobs as Kubernetes Jobs, made from a template that the chart renders.

A run's job is <template's name>-<run id>-<attempt>. The Job controller starts a job's pod again after eviction, a lost
node or a kill; the template's podFailurePolicy ends the job on exit codes that are final. Attempts count a run's jobs:
the next is made when the run is started after the last one was forgotten, whose logs stay until its TTL.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from preceptor.common.errors import InvalidInput
from preceptor.common.kubernetes_api import CALL_TIMEOUT_S, NOT_REACHED, Object, call, connect, opened
from preceptor.common.telemetry import get_logger
from preceptor.common.waiting import wait_until
from preceptor.conductor.adapters.kubernetes.reasons import finished, needs_events, newest_failed, status_of
from preceptor.conductor.adapters.kubernetes.reflector import Reflector
from preceptor.conductor.types import JobSpec, JobState, JobStatus

__all__ = ["KubernetesLauncher", "connect", "job_name", "load_template"]

log = get_logger(__name__)
RUN_LABEL = "preceptor.dev/run-id"
KIND_LABEL = "preceptor.dev/run-kind"
ATTEMPT_LABEL = "preceptor.dev/attempt"
FORGOTTEN_LABEL = "preceptor.dev/forgotten"
_LOG_LINES = 8
_GONE_TIMEOUT_S = 180.0  # a pod's grace period, in which it writes a checkpoint, and some
_LONGEST_NAME = (
    57  # an indexed Job's pods are <job>-<index>-<5 characters>, cut at 63, and their host names <job>-<index>
)
_CONFLICT, _NOT_FOUND = 409, 404
_TEMPLATE_FIELD = "PRECEPTOR_CONDUCTOR_JOB_TEMPLATE"


class KubernetesLauncher:
    """A `Launcher`.

    Args:
        api: the cluster.
        namespace: where the jobs go; empty: the template's.
        template: a batch/v1 Job with one container, whose args become the config's address.
        owner: name of the Deployment that owns the jobs, so that they go when it is uninstalled; empty: nobody does.
    """

    def __init__(self, api: client.ApiClient, namespace: str, template: Object, owner: str = "") -> None:
        self._api = api
        self._template = _checked(template)
        self._namespace = namespace or template["metadata"].get("namespace", "default")
        self._owner = owner
        self._batch, self._core = client.BatchV1Api(api), client.CoreV1Api(api)
        labels = ",".join(f"{key}={value}" for key, value in sorted(_labels(template).items()))
        where = {"namespace": self._namespace, "label_selector": f"{labels},{RUN_LABEL}" if labels else RUN_LABEL}
        self._jobs = Reflector("jobs", self._batch.list_namespaced_job, where)
        self._pods = Reflector("pods", self._core.list_namespaced_pod, where)
        self._lock = threading.Lock()

    def start(self, job: JobSpec) -> None:
        """Creates the run's next Job unless one is there."""
        with self._lock:
            if self._current(job.run_id) is not None:
                return
            # Two processes must never train one run: a job that is being deleted has yet to write its last checkpoint.
            wait_until(lambda: not self._ending(job.run_id), _GONE_TIMEOUT_S, f"the last job of {job.run_id} to end")
            known = self._of_run(self._jobs, job.run_id)
            attempt = 1 + max((int(one["metadata"]["labels"][ATTEMPT_LABEL]) for one in known), default=0)
            body = self._body(job, attempt)
            name = body["metadata"]["name"]
            try:
                created = call(f"creating job {name}", self._batch.create_namespaced_job, self._namespace, body)
            except ApiException as error:
                if error.status != _CONFLICT:
                    raise InvalidInput(
                        f"the Kubernetes API refuses job {name}: {error.body or error.reason}",
                        reason="JOB_REFUSED",
                    ) from error
                created = call(
                    "reading a job", self._batch.read_namespaced_job, body["metadata"]["name"], self._namespace
                )
            self._jobs.put(created)
            log.info("job created", job=name, run_id=job.run_id, attempt=attempt)

    def status(self, run_id: str) -> JobStatus:
        """From the watched copy; events are asked for while the job has no pod."""
        job = self._current(run_id)
        if job is None:
            return JobStatus(JobState.ABSENT)
        pods = self._pods_of(job)
        events = self._events(job) if needs_events(job, pods) else []
        found = status_of(job, pods, events)
        if found.state is JobState.FAILED:
            return JobStatus(found.state, message=f"{found.message}. {self._log_end(pods)}")
        return found

    def stop(self, run_id: str) -> None:
        """Deletes the job: SIGTERM, and SIGKILL after the pod's grace period. Returns when job and pods are gone."""
        job = self._current(run_id)
        if job is not None:
            self._delete(job)
            name = job["metadata"]["name"]
            wait_until(
                lambda: not self._left_of(job), _GONE_TIMEOUT_S, f"job {name} and its pods to end", interval_s=0.2
            )

    def forget(self, run_id: str) -> None:
        """Marks an ended job, whose logs stay until its TTL; deletes one that runs."""
        for job in self._of_run(self._jobs, run_id):
            if not finished(job):
                self._delete(job)
            elif not _forgotten(job):
                self._mark_forgotten(job)

    def close(self) -> None:
        """Ends the watches."""
        self._jobs.close()
        self._pods.close()

    def _body(self, job: JobSpec, attempt: int) -> Object:
        body = copy.deepcopy(self._template)
        metadata, pod = body["metadata"], body["spec"]["template"]
        metadata["name"] = job_name(metadata["name"], job.run_id, attempt)
        metadata["namespace"] = self._namespace
        ours = {RUN_LABEL: job.run_id, KIND_LABEL: job.kind, ATTEMPT_LABEL: str(attempt)}
        for part in (metadata, pod.setdefault("metadata", {})):
            part["labels"] = {**part.get("labels", {}), **ours}
        if self._owner:
            metadata["ownerReferences"] = [self._owner_reference()]
        [container] = pod["spec"]["containers"]
        container["args"] = [job.config_path]
        if body["spec"].get("completionMode") == "Indexed":  # its first pod is where the others meet it
            first = f"{metadata['name']}-0.{pod['spec'].get('subdomain', '')}".rstrip(".")
            container["env"] = [*container.get("env", []), {"name": "MASTER_ADDR", "value": first}]
        return body

    def _owner_reference(self) -> Object:
        apps = client.AppsV1Api(self._api)
        owner = call(f"reading deployment {self._owner}", apps.read_namespaced_deployment, self._owner, self._namespace)
        return {"apiVersion": "apps/v1", "kind": "Deployment", "name": self._owner, "uid": owner["metadata"]["uid"]}

    def _delete(self, job: Object) -> None:
        name = job["metadata"]["name"]
        delete: Callable[..., Any] = self._batch.delete_namespaced_job
        _unless_gone(
            lambda: call(f"deleting job {name}", delete, name, self._namespace, propagation_policy="Foreground")
        )

    def _mark_forgotten(self, job: Object) -> None:
        name, patch = job["metadata"]["name"], {"metadata": {"labels": {FORGOTTEN_LABEL: "true"}}}
        patched = _unless_gone(
            lambda: call(f"marking job {name}", self._batch.patch_namespaced_job, name, self._namespace, patch)
        )
        if patched is not None:
            self._jobs.put(patched)

    def _of_run(self, reflector: Reflector, run_id: str) -> list[Object]:
        return [one for one in reflector.objects() if one["metadata"]["labels"].get(RUN_LABEL) == run_id]

    def _current(self, run_id: str) -> Object | None:
        return next((job for job in self._of_run(self._jobs, run_id) if not _forgotten(job)), None)

    def _ending(self, run_id: str) -> bool:
        return any("deletionTimestamp" in job["metadata"] for job in self._of_run(self._jobs, run_id))

    def _pods_of(self, job: Object) -> list[Object]:
        labels = job["metadata"]["labels"]
        pods = self._of_run(self._pods, labels[RUN_LABEL])
        return [pod for pod in pods if pod["metadata"]["labels"].get(ATTEMPT_LABEL) == labels[ATTEMPT_LABEL]]

    def _left_of(self, job: Object) -> bool:
        uid = job["metadata"]["uid"]
        return any(one["metadata"]["uid"] == uid for one in self._jobs.objects()) or bool(self._pods_of(job))

    def _events(self, job: Object) -> list[Object]:
        name = job["metadata"]["name"]
        answer = call(
            f"listing events of job {name}",
            self._core.list_namespaced_event,
            self._namespace,
            field_selector=f"involvedObject.kind=Job,involvedObject.name={name}",
        )
        return list(answer["items"])

    def _log_end(self, pods: list[Object]) -> str:
        pod = newest_failed(pods)
        if pod is None:
            return "Its pod is gone, and its log with it"
        name = pod["metadata"]["name"]
        read = self._core.read_namespaced_pod_log
        try:
            data = opened(read, CALL_TIMEOUT_S, name, self._namespace, tail_lines=_LOG_LINES).data
        except (ApiException, *NOT_REACHED) as error:
            return f"Its log cannot be read: {error}"
        return f"The end of its log:\n{data.decode(errors='replace').rstrip()}"


def job_name(prefix: str, run_id: str, attempt: int) -> str:
    """The Job's name; a long run id is cut, and told apart by a hash."""
    name = f"{prefix}-{run_id}-{attempt}"
    if len(name) <= _LONGEST_NAME:
        return name
    ending = f"-{hashlib.blake2s(run_id.encode(), digest_size=4).hexdigest()}-{attempt}"
    return f"{name[: _LONGEST_NAME - len(ending)].rstrip('-')}{ending}"


def _unless_gone(request: Callable[[], Any]) -> Any:
    try:
        return request()
    except ApiException as error:
        if error.status != _NOT_FOUND:
            raise
        return None


def _forgotten(job: Object) -> bool:
    metadata = job["metadata"]
    return metadata["labels"].get(FORGOTTEN_LABEL) == "true" or bool(metadata.get("deletionTimestamp"))


def _labels(template: Object) -> dict[str, str]:
    labels = template.get("metadata", {}).get("labels", {})
    keys = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component")
    return {key: labels[key] for key in keys if key in labels}


def load_template(path: Path) -> Object:
    """Reads the Job that a run's is made from.

    Raises:
        InvalidInput: the file is missing, is no YAML, or holds something else.
    """
    try:
        template = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput(f"no job template at {path}: {error}", field=_TEMPLATE_FIELD) from error
    checked = _checked(template if isinstance(template, dict) else {})
    for container in checked["spec"]["template"]["spec"]["containers"]:
        for amounts in container.get(
            "resources", {}
        ).values():  # YAML reads `cpu: 4` as a number, the package wants text
            amounts.update({name: str(amount) for name, amount in amounts.items()})
    return checked


def _checked(template: Object) -> Object:
    spec = template.get("spec", {}).get("template", {}).get("spec", {})
    if (
        template.get("kind") != "Job"
        or not template.get("metadata", {}).get("name")
        or len(spec.get("containers", ())) != 1
    ):
        raise InvalidInput(
            "the job template is no Job of batch/v1 with a name and one container",
            field=_TEMPLATE_FIELD,
        )
    return template
