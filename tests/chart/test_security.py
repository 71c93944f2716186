"""Restricted Pod Security on every pod; nothing without resources, probes and a security context."""

import re

import pytest

from tests.chart.rendering import NAMESPACE, PREFIX, PRESETS, ROOT, containers, named, of_kind, pods, render

_WRITING = {"create", "update", "patch", "delete", "deletecollection"}

# https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


@pytest.mark.parametrize("preset", PRESETS)
def test_pods_are_restricted(preset: str) -> None:
    for component, pod in pods(render(preset)):
        spec = pod["spec"]
        assert spec["enableServiceLinks"] is False, component
        assert spec["automountServiceAccountToken"] is (component == "conductor")
        assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] >= 999
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= RESTRICTED_VOLUMES


@pytest.mark.parametrize("preset", PRESETS)
def test_containers_are_restricted_and_bounded(preset: str) -> None:
    for component, _, container in containers(render(preset)):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, component
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        for side in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][side])
        if component != "test":
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container), component


def test_mounted_volumes_exist_and_tmp_is_writable() -> None:
    for component, pod, container in containers(render("production")):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) <= set(volumes)
        assert "emptyDir" in volumes[mounts["/tmp"]], component


def test_processes_are_probed_on_the_plaintext_metrics_port() -> None:
    for component, _, container in containers(render()):
        if container.get("command", [])[:2] != ["python", "-m"]:
            continue
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}, component
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
        assert container["startupProbe"]["httpGet"]["port"] == "metrics"


def test_generators_get_the_time_that_loading_takes() -> None:
    probe = named(render(), "StatefulSet", "generation")["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 600


def test_each_stage_has_an_account_and_the_conductors_alone_has_rights() -> None:
    objects = render()
    accounts = {item["metadata"]["name"] for item in of_kind(objects, "ServiceAccount")}
    used = {pod["spec"]["serviceAccountName"] for _, pod in pods(objects)}
    assert used == accounts == {f"{PREFIX}-{component}" for component, _ in pods(objects)}
    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")
    [role], [binding] = of_kind(objects, "Role"), of_kind(objects, "RoleBinding")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": f"{PREFIX}-conductor", "namespace": NAMESPACE}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    written = {resource for rule in role["rules"] for resource in rule["resources"] if _WRITING & set(rule["verbs"])}
    assert written == {"jobs"}
    assert not any("*" in value for rule in role["rules"] for values in rule.values() for value in values)


def test_the_role_grants_what_the_launcher_asks_for() -> None:
    """Every request of the launcher's own tests, against the Role: nothing is refused, nothing is granted in vain."""
    [role] = of_kind(render(), "Role")
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    source = (ROOT / "services/preceptor/conductor/adapters/kubernetes/launcher.py").read_text()
    methods = re.findall(r"\.(create|read|list|patch|delete)_namespaced_(\w+)", source)
    verbs = {"read": ["get"], "list": ["list"]}
    asked = {(_resource(name), verb) for method, name in methods for verb in verbs.get(method, [method])}
    watched = {("jobs", "watch"), ("pods", "watch")}
    assert granted - {("pods", "get")} == asked | watched


def _resource(method_name: str) -> str:
    return {"pod_log": "pods/log"}.get(method_name, f"{method_name}s")


def test_disruption_budgets_select_their_stage() -> None:
    objects = render()
    labels = {component: pod["metadata"]["labels"] for component, pod in pods(objects)}
    budgets = of_kind(objects, "PodDisruptionBudget")
    assert len(budgets) == 6
    for budget in budgets:
        component = budget["metadata"]["name"].removeprefix(f"{PREFIX}-")
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels[component].items()
        assert budget["spec"]["maxUnavailable"] >= 1, "a budget of none blocks a node's drain for ever"


def test_hooks_are_tests_alone() -> None:
    """Secrets or migrations delivered as hooks are what GitOps tools lose."""
    for item in render("production"):
        hook = item["metadata"].get("annotations", {}).get("helm.sh/hook")
        assert hook in (None, "test")
        assert hook is None or item["kind"] == "Pod"


def test_passwords_reach_no_argument_and_no_plain_variable() -> None:
    for _, _, container in containers(render()):
        for entry in container.get("env", []):
            if "PASSWORD" in entry["name"] and not entry["name"].endswith("_FILE"):
                assert "secretKeyRef" in entry["valueFrom"]
        assert "requirepass $" not in " ".join(container.get("args", []))
