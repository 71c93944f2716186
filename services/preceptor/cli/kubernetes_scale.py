"""Changing how many pods a stage of an installed release has."""

from __future__ import annotations

from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException

from preceptor.common.errors import FailedPrecondition, NotFound
from preceptor.common.kubernetes_api import Object, call

_NOT_FOUND = 404
_KEDA = ("keda.sh", "v1alpha1", "scaledobjects")


class Release:
    """A release of the chart.

    Args:
        api: the cluster.
        namespace: where it is installed.
        name: Helm's release name.
    """

    def __init__(self, api: client.ApiClient, namespace: str, name: str) -> None:
        self._apps, self._scaling = client.AppsV1Api(api), client.AutoscalingV2Api(api)
        self._custom = client.CustomObjectsApi(api)
        self._namespace = namespace
        self._name = name

    def scale(self, stage: str, replicas: int) -> tuple[str, int]:
        """Sets a stage's pods. Returns what was scaled ("StatefulSet x") and how many it had.

        Raises:
            NotFound: the release has no such stage, or no single one.
            FailedPrecondition: an autoscaler owns the number; its name is said.
            Unavailable, PermissionDenied: the API's part.
        """
        kind, target = self._target(stage)
        name = target["metadata"]["name"]
        owner = self._autoscaler(kind, name)
        if owner:
            raise FailedPrecondition(
                f"{owner} owns the number of {name}'s pods: change {stage}.autoscaling.minReplicas and maxReplicas in "
                f"the release's values, or switch {stage}.autoscaling.enabled off",
                reason="AUTOSCALED",
            )
        patch = getattr(
            self._apps, f"patch_namespaced_{'stateful_set' if kind == 'StatefulSet' else 'deployment'}_scale"
        )
        call(f"scaling {name}", patch, name, self._namespace, {"spec": {"replicas": replicas}})
        return f"{kind} {name}", int(target["spec"].get("replicas", 1))

    def _target(self, stage: str) -> tuple[str, Object]:
        selector = f"app.kubernetes.io/instance={self._name},app.kubernetes.io/component={stage}"
        listers: dict[str, Any] = {
            "StatefulSet": self._apps.list_namespaced_stateful_set,
            "Deployment": self._apps.list_namespaced_deployment,
        }
        found = [
            (kind, item)
            for kind, lister in listers.items()
            for item in call(f"looking for {stage}", lister, self._namespace, label_selector=selector)["items"]
        ]
        if len(found) != 1:
            raise NotFound(
                f"release {self._name} in namespace {self._namespace} has no stage {stage}: see `helm list -A` and "
                "give --release and --namespace",
                field="stage",
            )
        return found[0]

    def _autoscaler(self, kind: str, name: str) -> str:
        answer = call("listing autoscalers", self._scaling.list_namespaced_horizontal_pod_autoscaler, self._namespace)
        items = [("HorizontalPodAutoscaler", item) for item in answer["items"]]
        try:
            group, version, plural = _KEDA
            lister = self._custom.list_namespaced_custom_object
            answer = call("listing ScaledObjects", lister, group, version, self._namespace, plural)
            items = [("ScaledObject", item) for item in answer["items"]] + items
        except ApiException as error:
            if error.status != _NOT_FOUND:  # without KEDA there is no such resource
                raise
        for owner, item in items:
            target = item["spec"]["scaleTargetRef"]
            if target["name"] == name and target.get("kind", "Deployment") == kind:
                return f"{owner} {item['metadata']['name']}"
        return ""
