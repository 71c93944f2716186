"""`preceptor scale` against an API server that speaks the real protocol."""

from collections.abc import Iterator

import pytest

from preceptor.cli import main
from preceptor.common import kubernetes_api as calls
from tests.support.kubernetes_api import KubernetesApi, serving

LABELS = {"app.kubernetes.io/instance": "preceptor"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    api = KubernetesApi()
    for resource, stage in (("statefulsets", "generation"), ("deployments", "rollout")):
        labels = LABELS | {"app.kubernetes.io/component": stage}
        api.put(resource, {"metadata": {"name": f"preceptor-{stage}", "labels": labels}, "spec": {"replicas": 2}})
    with serving(api) as client:
        monkeypatch.setattr(calls, "connect", lambda: client)
        yield api


@pytest.mark.parametrize(("stage", "resource"), [("generation", "statefulsets"), ("rollout", "deployments")])
def test_a_stage_gets_the_pods_asked_for(
    cluster: KubernetesApi, capsys: pytest.CaptureFixture[str], stage: str, resource: str
) -> None:
    assert main.run(["scale", stage, "8", "-n", "rl"]) == 0
    assert cluster.objects[resource, f"preceptor-{stage}"]["spec"]["replicas"] == 8
    assert f"preceptor-{stage}: 2 → 8" in capsys.readouterr().out


@pytest.mark.parametrize("owner", ["horizontalpodautoscalers", "scaledobjects"])
def test_an_autoscaled_stage_is_left_alone(
    cluster: KubernetesApi, capsys: pytest.CaptureFixture[str], owner: str
) -> None:
    target = {"kind": "StatefulSet", "name": "preceptor-generation"}
    cluster.put(owner, {"metadata": {"name": "scaler"}, "spec": {"scaleTargetRef": target}})
    assert main.run(["scale", "generation", "8", "-n", "rl"]) == 1
    assert cluster.objects["statefulsets", "preceptor-generation"]["spec"]["replicas"] == 2
    said = capsys.readouterr().err
    assert "scaler owns the number" in said
    assert "generation.autoscaling.minReplicas" in said
    assert main.run(["scale", "rollout", "3", "-n", "rl"]) == 0, "another stage's autoscaler is no obstacle"


def test_what_is_not_there_is_named(cluster: KubernetesApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["scale", "reward", "2", "-n", "rl"]) == 1
    assert "has no stage reward" in capsys.readouterr().err
    assert main.run(["scale", "learner", "2", "-n", "rl"]) == 2
    assert main.run(["scale", "rollout", "-1", "-n", "rl"]) == 2


def test_missing_rights_are_said(cluster: KubernetesApi, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.trouble_on = "PATCH"
    cluster.answers.append((403, {}))
    assert main.run(["scale", "generation", "8", "-n", "rl"]) == 1
    assert "refuses scaling preceptor-generation: 403" in capsys.readouterr().err
