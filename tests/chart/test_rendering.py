"""The chart lints, and what it renders is what Kubernetes' schemas take, whatever is switched on."""

from functools import cache
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.chart.crds import SCHEMAS
from tests.chart.rendering import (
    CHART,
    NAMESPACE,
    PREFIX,
    PRESETS,
    chart,
    containers,
    environment,
    learner_jobs,
    named,
    notes,
    of_kind,
    pods,
    render,
    switched,
    values_of,
)

VERSIONS = ["1.30", "1.32", "1.34", kubernetes_validate.latest_version()]
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)  # megabytes, per object
EXTERNAL = switched(
    redis__bundled__enabled=False,
    redis__external={"url": "redis://redis.data:6379/0", "networkPeers": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
    postgresql__bundled__enabled=False,
    postgresql__external={"existingSecret": "pg", "networkPeers": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
)
S3 = {
    "s3": {
        "url": "s3://models/preceptor",
        "endpoint": "https://minio.data.svc",
        "region": "eu-1",
        "existingSecret": "bucket",
        "networkPeers": [{"namespaceSelector": {"matchLabels": {"name": "data"}}}],
    }
}
WITHOUT_LOOPS = switched(
    conductor__enabled=False, generation={"runId": "", "modelDir": "/models/base"}, reward__replicas=3
)
SWITCHES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "external stores": EXTERNAL,
    "no loops, one model": WITHOUT_LOOPS,
    "inference alone": WITHOUT_LOOPS
    | switched(
        conductor__enabled=False,
        rollout__enabled=False,
        feedback__enabled=False,
        feedbackWorker__enabled=False,
        console__enabled=False,
    ),
    "autoscaling by hpa": switched(
        generation__autoscaling={"enabled": True, "kind": "hpa"},
        rollout__autoscaling={"enabled": True, "kind": "hpa"},
        reward__autoscaling={"enabled": True, "kind": "hpa"},
        feedback__autoscaling__enabled=True,
        feedbackWorker__autoscaling__enabled=True,
        console__autoscaling__enabled=True,
    ),
    "autoscaling by keda": switched(
        generation__autoscaling__enabled=True,
        rollout__autoscaling__enabled=True,
        reward__autoscaling__enabled=True,
        monitoring__prometheusAddress="http://prometheus:9090",
    ),
    "no network policies": switched(networkPolicy__enabled=False),
    "no persistence": switched(
        redis__bundled__persistence__enabled=False, postgresql__bundled__persistence__enabled=False
    ),
    "volumes that go": switched(
        redis__bundled__persistence__keep=False,
        postgresql__bundled__persistence__keep=False,
        artifacts={"keep": False, "volumeName": "by-hand", "storageClass": "manual"},
    ),
    "claim of one's own": switched(artifacts__existingClaim="models"),
    "artifacts in a bucket": {"artifacts": S3},
    "secrets of one's own": switched(redis__bundled__existingSecret="r", postgresql__bundled__existingSecret="p"),
    "registry and digest": switched(
        image={"registry": "registry.example.com/ml", "pullSecrets": ["pull"]},
        generation__image__digest="sha256:" + "a" * 64,
    ),
    "everything a pod can be given": switched(
        rollout={
            "nodeSelector": {"pool": "cpu"},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}},
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
            ],
            "priorityClassName": "high",
            "extraEnv": [{"name": "NUMEXPR_NUM_THREADS", "value": "1"}],
            "extraVolumes": [{"name": "scratch", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
            "podAnnotations": {"a": "b"},
            "podLabels": {"team": "rl"},
            "serviceAccount": {"name": "mine"},
        }
    ),
    "learner jobs of several workers": switched(learner__workers=4),
    "no tests": switched(tests__enabled=False),
    "own objects": {
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"r": "{{ .Release.Name }}"}}
        ]
    },
}


def test_lint_has_no_warning() -> None:
    report = helm_python.lint(CHART, {}, strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_objects(preset: str, version: str) -> None:
    check(render(preset), version)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_are_valid_objects(preset: str, switch: str) -> None:
    if preset == "production" and switch in {"external stores", "secrets of one's own"}:
        preset = "gpu"  # production has external stores already, by Secrets
    if switch.startswith(("no loops", "inference")) and preset == "production":
        preset = "cpu"
    check(render(preset, SWITCHES[switch]), VERSIONS[-1])


def check(objects: list[dict[str, Any]], version: str) -> None:
    assert objects
    for item in [*objects, *learner_jobs(objects)]:
        if item["kind"] in SCHEMAS:
            jsonschema.validate(item, SCHEMAS[item["kind"]])
        else:
            kubernetes_validate.validate(item, version, strict=True)
        assert item["metadata"].get("namespace", NAMESPACE) == NAMESPACE
    names = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)


def test_artifacts_in_a_bucket_need_no_volume() -> None:
    objects = render(changes={"artifacts": S3})
    assert not [o for o in of_kind(objects, "PersistentVolumeClaim") if o["metadata"]["name"].endswith("artifacts")]
    for component, pod, container in containers(objects):
        assert "artifacts" not in {volume["name"] for volume in pod["spec"]["volumes"]}
        env = environment(component, pod, container)
        uses = component in ("generation", "reward", "conductor", "learner")
        keys = {key for key in env if key.startswith("AWS_")}
        assert bool(keys) == uses, component
        if uses:
            assert env["AWS_ENDPOINT_URL"] == "https://minio.data.svc"
            assert (env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"]) == ("id-of-key", "s3cretKey")
        urls = [value for key, value in env.items() if key.endswith("_ARTIFACTS_URL")]
        assert set(urls) <= {"s3://models/preceptor"}


def test_names_come_from_the_release() -> None:
    for item in render():
        assert item["metadata"]["name"].startswith(f"{PREFIX}-")
        assert item["metadata"]["namespace"] == NAMESPACE
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == "demo"


def test_the_longest_release_name_fits() -> None:
    files = chart().render({}, name="r" * 53, namespace=NAMESPACE)
    for text in files.values():
        for item in yaml.safe_load_all(text) if "kind:" in text else []:
            # The pods of a StatefulSet carry its name and a hash in a label of 63 characters.
            assert len(item["metadata"]["name"]) <= (52 if item["kind"] == "StatefulSet" else 63)


def test_labels_of_the_monitor_stand_beside_its_own() -> None:
    changes = switched(monitoring__podMonitor__labels={"release": "prometheus"})
    [monitor] = of_kind(render("production", changes), "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["metadata"]["labels"]["app.kubernetes.io/instance"] == "demo"


def test_autoscaled_stages_have_no_replicas() -> None:
    for switch in ("autoscaling by hpa", "autoscaling by keda"):
        objects = render(changes=SWITCHES[switch])
        targets = [
            item["spec"]["scaleTargetRef"] for item in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
        ]
        assert targets
        for target in targets:
            [scaled] = [o for o in of_kind(objects, target["kind"]) if o["metadata"]["name"] == target["name"]]
            assert "replicas" not in scaled["spec"]


def test_keda_asks_for_one_number_of_a_metric_that_exists() -> None:
    objects = render(changes=SWITCHES["autoscaling by keda"])
    source = "\n".join(path.read_text() for path in (CHART.parents[1] / "services" / "preceptor").rglob("*.py"))
    for item in of_kind(objects, "ScaledObject"):
        assert item["spec"]["minReplicaCount"] >= 1
        [trigger] = item["spec"]["triggers"]
        metric = trigger["metadata"]["query"].removeprefix("sum(").partition("{")[0]
        assert f'gauge("{metric}"' in source.replace("gauge(\n    ", "gauge(")
        assert trigger["metadata"]["ignoreNullValues"] == "false"


def test_scraped_ports_exist() -> None:
    [monitor] = of_kind(render("production"), "PodMonitor")
    ports = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    for component, pod in pods(render("production")):
        if component != "test":
            assert ports <= {port["name"] for c in pod["spec"]["containers"] for port in c["ports"]}, component


def test_notes_name_the_next_three_commands() -> None:
    text = notes()
    assert all(f"  {number}. " in text for number in (1, 2, 3))
    assert f"{PREFIX}-console 8080" in text
    assert "helm test demo -n rl" in text
    assert "preceptor loop start loop " in text
    assert "port-forward" not in notes(changes=SWITCHES["inference alone"])


def test_uninstall_keeps_what_was_asked_for() -> None:
    kept = render()
    assert named(kept, "PersistentVolumeClaim", "artifacts")["metadata"]["annotations"] == {
        "helm.sh/resource-policy": "keep"
    }
    assert "annotations" in named(kept, "Secret", "postgresql")["metadata"], "the password of data that stays"
    gone = render(changes=SWITCHES["volumes that go"])
    assert not any("resource-policy" in yaml.safe_dump(item) for item in gone)
    for name in ("redis", "postgresql"):
        policy = "persistentVolumeClaimRetentionPolicy"
        assert named(kept, "StatefulSet", name)["spec"][policy]["whenDeleted"] == "Retain"
        assert named(gone, "StatefulSet", name)["spec"][policy]["whenDeleted"] == "Delete"


def test_no_secret_stands_outside_a_secret() -> None:
    given = switched(redis__bundled__password="pa55word", postgresql__bundled__password="pa55word")
    for item in render(changes=given):
        assert "pa55word" not in yaml.safe_dump(item)


def test_extra_objects_are_templates() -> None:
    [made] = [o for o in render(changes=SWITCHES["own objects"]) if o["metadata"]["name"] == "x"]
    assert made["data"] == {"r": "demo"}


def test_presets_say_only_what_the_chart_knows() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())

    def unknown(given: Any, known: Any, path: str = "") -> list[str]:
        if not isinstance(given, dict) or not isinstance(known, dict) or not known:
            return []
        missing = [f"{path}{key}" for key in given if key not in known]
        return missing + [p for key in given if key in known for p in unknown(given[key], known[key], f"{path}{key}.")]

    for preset in PRESETS:
        found = [name for name in unknown(values_of(preset), defaults) if "resources" not in name]
        assert found == []
