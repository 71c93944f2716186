"""The Kubernetes launcher against an API server that speaks the real protocol over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preceptor.common import kubernetes_api as calls
from preceptor.common.errors import InvalidInput, PermissionDenied, Unavailable
from preceptor.common.waiting import wait_until
from preceptor.conductor.adapters.kubernetes.launcher import KubernetesLauncher, job_name, load_template
from preceptor.conductor.types import JobSpec, JobState
from tests.support.kubernetes_api import KubernetesApi, serving

LABELS = {
    "app.kubernetes.io/name": "preceptor",
    "app.kubernetes.io/instance": "rel",
    "app.kubernetes.io/component": "learner",
}
TEMPLATE: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "rel-learner", "namespace": "rl", "labels": LABELS},
    "spec": {
        "template": {
            "metadata": {"labels": LABELS},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "learner", "command": ["python"]}]},
        }
    },
}
SPEC = JobSpec("loop-rl", "rl", "/artifacts/loops/loop/loop-rl.yaml")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(calls, "LONGEST_PAUSE_S", 0.05)


@pytest.fixture
def cluster() -> KubernetesApi:
    api = KubernetesApi()
    api.put("deployments", {"metadata": {"name": "rel-conductor", "uid": "owner-uid"}})
    return api


@pytest.fixture
def launcher(cluster: KubernetesApi) -> Iterator[KubernetesLauncher]:
    with serving(cluster) as client:
        made = KubernetesLauncher(client, "", TEMPLATE, "rel-conductor")
        yield made
        made.close()


def pod_of(cluster: KubernetesApi, job: str, name: str = "pod-1", **status: Any) -> None:
    labels = cluster.objects["jobs", job]["metadata"]["labels"]
    metadata = {"name": name, "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"}
    cluster.put("pods", {"metadata": metadata, "status": status})


def finish(cluster: KubernetesApi, job: str, how: str) -> None:
    cluster.change("jobs", job, status={"conditions": [{"type": how, "status": "True", "reason": "R", "message": "m"}]})


def until_state(launcher: KubernetesLauncher, state: JobState) -> None:
    wait_until(lambda: launcher.status(SPEC.run_id).state is state, 10, f"the job to be {state}")


def test_a_job_is_made_once_from_the_template(cluster: KubernetesApi, launcher: KubernetesLauncher) -> None:
    assert launcher.status(SPEC.run_id).state is JobState.ABSENT
    launcher.start(SPEC)
    launcher.start(SPEC)
    assert cluster.named("jobs") == ["rel-learner-loop-rl-1"]
    job = cluster.objects["jobs", "rel-learner-loop-rl-1"]
    assert job["metadata"]["labels"] == LABELS | {
        "preceptor.dev/run-id": "loop-rl",
        "preceptor.dev/run-kind": "rl",
        "preceptor.dev/attempt": "1",
    }
    assert job["spec"]["template"]["metadata"]["labels"] == job["metadata"]["labels"]
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == [SPEC.config_path]
    [owner] = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Deployment", "rel-conductor", "owner-uid")
    assert launcher.status(SPEC.run_id).state is JobState.RUNNING
    assert TEMPLATE["metadata"]["name"] == "rel-learner", "the template stays as it is"


def test_another_conductors_create_of_the_same_attempt_is_taken_over(cluster: KubernetesApi) -> None:
    with serving(cluster) as one, serving(cluster) as two:
        launchers = [KubernetesLauncher(client, "rl", TEMPLATE) for client in (one, two)]
        for launcher in launchers:
            assert launcher.status(SPEC.run_id).state is JobState.ABSENT
        threads = [threading.Thread(target=launcher.start, args=(SPEC,)) for launcher in launchers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cluster.named("jobs") == ["rel-learner-loop-rl-1"]
        for launcher in launchers:
            assert launcher.status(SPEC.run_id).state is JobState.RUNNING
            launcher.close()


def test_success_and_failure_come_through_the_watch(cluster: KubernetesApi, launcher: KubernetesLauncher) -> None:
    launcher.start(SPEC)
    pod_of(cluster, "rel-learner-loop-rl-1", phase="Running")
    wait_until(lambda: launcher.status(SPEC.run_id).message == "", 10, "the pod to be seen")
    finish(cluster, "rel-learner-loop-rl-1", "Complete")
    until_state(launcher, JobState.SUCCEEDED)


def test_a_failure_brings_the_end_of_the_log(cluster: KubernetesApi, launcher: KubernetesLauncher) -> None:
    launcher.start(SPEC)
    state = {"terminated": {"exitCode": 2, "reason": "Error"}}
    pod_of(cluster, "rel-learner-loop-rl-1", phase="Failed", containerStatuses=[{"image": "i", "state": state}])
    cluster.logs["pod-1"] = "loop-rl.yaml:3: batch_size: no such field\n"
    finish(cluster, "rel-learner-loop-rl-1", "Failed")
    until_state(launcher, JobState.FAILED)
    message = launcher.status(SPEC.run_id).message
    assert "exit code 2" in message
    assert "batch_size: no such field" in message


def test_what_keeps_a_pod_from_being_made_is_read_from_events(
    cluster: KubernetesApi, launcher: KubernetesLauncher
) -> None:
    launcher.start(SPEC)
    event = {
        "metadata": {"name": "e1"},
        "type": "Warning",
        "reason": "FailedCreate",
        "message": "exceeded quota: gpus",
        "involvedObject": {"kind": "Job", "name": "rel-learner-loop-rl-1"},
    }
    cluster.put("events", event)
    assert "exceeded quota: gpus" in launcher.status(SPEC.run_id).message


def test_a_forgotten_run_starts_as_its_next_attempt(cluster: KubernetesApi, launcher: KubernetesLauncher) -> None:
    launcher.start(SPEC)
    finish(cluster, "rel-learner-loop-rl-1", "Failed")
    until_state(launcher, JobState.FAILED)
    launcher.forget(SPEC.run_id)
    assert launcher.status(SPEC.run_id).state is JobState.ABSENT
    assert cluster.named("jobs") == ["rel-learner-loop-rl-1"], "its logs stay until the TTL"
    launcher.start(SPEC)
    assert cluster.named("jobs") == ["rel-learner-loop-rl-1", "rel-learner-loop-rl-2"]
    launcher.forget(SPEC.run_id)
    assert "deletionTimestamp" in cluster.objects["jobs", "rel-learner-loop-rl-2"]["metadata"], "it ran: deleted"


def test_no_second_job_while_the_first_writes_its_checkpoint(
    cluster: KubernetesApi, launcher: KubernetesLauncher
) -> None:
    launcher.start(SPEC)
    launcher.forget(SPEC.run_id)
    until_state(launcher, JobState.ABSENT)
    starting = threading.Thread(target=launcher.start, args=(SPEC,))
    starting.start()
    starting.join(0.3)
    assert starting.is_alive()
    assert cluster.named("jobs") == ["rel-learner-loop-rl-1"]
    cluster.remove("jobs", "rel-learner-loop-rl-1")
    starting.join(10)
    assert cluster.named("jobs") == ["rel-learner-loop-rl-1"], "no attempt is left to count on from"
    assert "deletionTimestamp" not in cluster.objects["jobs", "rel-learner-loop-rl-1"]["metadata"]


def test_stop_returns_when_job_and_pods_are_gone(cluster: KubernetesApi, launcher: KubernetesLauncher) -> None:
    launcher.start(SPEC)
    pod_of(cluster, "rel-learner-loop-rl-1", phase="Running")
    stopping = threading.Thread(target=launcher.stop, args=(SPEC.run_id,))
    stopping.start()
    stopping.join(0.3)
    assert stopping.is_alive()
    cluster.remove("pods", "pod-1")
    cluster.remove("jobs", "rel-learner-loop-rl-1")
    stopping.join(10)
    assert not stopping.is_alive()
    launcher.stop(SPEC.run_id)


def test_the_watch_survives_expiry_and_disconnects(cluster: KubernetesApi, launcher: KubernetesLauncher) -> None:
    launcher.start(SPEC)
    assert launcher.status(SPEC.run_id).state is JobState.RUNNING
    cluster.hang_up.set()
    with cluster.changed:
        cluster.changed.notify_all()
    cluster.remove("jobs", "rel-learner-loop-rl-1")
    cluster.compact()
    cluster.trouble_on = "GET"
    cluster.answers.extend([(500, {}), (503, {}), (410, {})])
    cluster.hang_up.clear()
    until_state(launcher, JobState.ABSENT)
    launcher.start(SPEC)
    finish(cluster, "rel-learner-loop-rl-1", "Complete")
    until_state(launcher, JobState.SUCCEEDED)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_tried_again(cluster: KubernetesApi, launcher: KubernetesLauncher, status: int) -> None:
    assert launcher.status(SPEC.run_id).state is JobState.ABSENT
    cluster.trouble_on = "POST"
    cluster.answers.extend([(status, {"Retry-After": "0"})] * 2)
    launcher.start(SPEC)
    assert cluster.named("jobs") == ["rel-learner-loop-rl-1"]


def test_lasting_trouble_and_missing_rights_are_said(cluster: KubernetesApi, launcher: KubernetesLauncher) -> None:
    assert launcher.status(SPEC.run_id).state is JobState.ABSENT
    cluster.trouble_on = "/deployments/"
    cluster.answers.extend([(503, {})] * calls.ATTEMPTS)
    with pytest.raises(Unavailable, match="does not answer while reading deployment rel-conductor"):
        launcher.start(SPEC)
    cluster.answers.append((403, {}))
    with pytest.raises(PermissionDenied, match="refuses reading deployment rel-conductor: 403"):
        launcher.start(SPEC)
    assert cluster.named("jobs") == []


def test_a_refused_job_names_the_refusal(cluster: KubernetesApi) -> None:
    with serving(cluster) as client:
        launcher = KubernetesLauncher(client, "rl", TEMPLATE)
        assert launcher.status(SPEC.run_id).state is JobState.ABSENT
        cluster.trouble_on = "POST"
        cluster.answers.append((422, {}))
        with pytest.raises(InvalidInput, match="refuses job rel-learner-loop-rl-1"):
            launcher.start(SPEC)
        launcher.close()


def test_an_api_that_is_away_is_unavailable(monkeypatch: pytest.MonkeyPatch, cluster: KubernetesApi) -> None:
    monkeypatch.setattr("preceptor.conductor.adapters.kubernetes.reflector._SYNC_TIMEOUT_S", 0.5)
    with serving(cluster) as client:
        pass
    launcher = KubernetesLauncher(client, "rl", TEMPLATE)
    with pytest.raises(Unavailable, match="Kubernetes API does not answer"):
        launcher.status(SPEC.run_id)
    launcher.close()


def test_names_fit_and_differ() -> None:
    assert job_name("rel-learner", "demo-rl", 3) == "rel-learner-demo-rl-3"
    long = [job_name("p" * 36 + "-learner", "r" * 60 + end, 12) for end in ("a", "b")]
    assert long[0] != long[1]
    assert all(len(name) <= 57 and name.endswith("-12") for name in long)


@pytest.mark.parametrize("text", ["{", "kind: Pod", "kind: Job\nmetadata: {name: x}"])
def test_a_template_that_is_no_job_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match="job template"):
        load_template(path)
    with pytest.raises(InvalidInput, match="no job template at"):
        load_template(tmp_path / "missing.yaml")
