"""Rendering the chart without a cluster, and reading what came out as Kubernetes would."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "preceptor"
PRESETS = {
    "default": (),
    "cpu": ("values-cpu.yaml",),
    "gpu": ("values-gpu.yaml",),
    "production": ("values-gpu.yaml", "values-production.yaml"),
}
RELEASE, NAMESPACE = "demo", "rl"
PREFIX = f"{RELEASE}-preceptor"
POD_IP = "10.1.2.3"
INDEX_FIELD = "metadata.annotations['batch.kubernetes.io/job-completion-index']"

Object = dict[str, Any]


@cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Values put over each other as helm does with several -f: mappings merge, anything else is replaced."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def values_of(preset: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    files = [yaml.safe_load((CHART / name).read_text()) for name in PRESETS[preset]]
    return merged(*files, changes or {})


def switched(**changes: Any) -> dict[str, Any]:
    """`switched(generation__autoscaling__enabled=True)`: the dotted path as nested values."""
    result: dict[str, Any] = {}
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return result


def render(preset: str = "default", changes: Mapping[str, Any] | None = None) -> list[Object]:
    """Every object, hooks included."""
    values = values_of(preset, changes)
    chart().validate_schema(values)
    files = chart().render(values, name=RELEASE, namespace=NAMESPACE)
    objects = []
    for name, text in files.items():
        if name.endswith(".txt"):
            continue
        objects += [item for item in yaml.safe_load_all(text) if item]
    return objects


def notes(preset: str = "default", changes: Mapping[str, Any] | None = None) -> str:
    files = chart().render(values_of(preset, changes), name=RELEASE, namespace=NAMESPACE)
    return next(text for name, text in files.items() if name.endswith("NOTES.txt"))


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def named(objects: list[Object], kind: str, component: str) -> Object:
    [found] = [o for o in of_kind(objects, kind) if o["metadata"]["name"] == f"{PREFIX}-{component}"]
    return found


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """(component, pod) of everything that makes pods; a pod has `metadata` and `spec`."""
    for item in [*of_kind(objects, "Deployment", "StatefulSet"), *learner_jobs(objects)]:
        template = item["spec"]["template"]
        yield template["metadata"]["labels"]["app.kubernetes.io/component"], template
    for item in of_kind(objects, "Pod"):
        yield item["metadata"]["labels"]["app.kubernetes.io/component"], item


def learner_jobs(objects: list[Object]) -> list[Object]:
    """The template of learner Jobs, which stands in a ConfigMap; none without a conductor."""
    maps = [item for item in of_kind(objects, "ConfigMap") if item["metadata"]["name"] == f"{PREFIX}-learner"]
    return [yaml.safe_load(item["data"]["job.yaml"]) for item in maps]


def containers(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """(component, pod, container)."""
    for component, pod in pods(objects):
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            yield component, pod, container


def environment(component: str, pod: Object, container: Object) -> dict[str, str]:
    """The variables as kubelet would set them, references resolved and $(VAR) expanded."""
    found: dict[str, str] = {}
    for entry in container.get("env", []):
        source = entry.get("valueFrom")
        raw = _from_source(source, component, pod, container) if source else entry.get("value", "")
        found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found.get(match[1], match[0]), raw)
    return found


def _from_source(source: Mapping[str, Any], component: str, pod: Object, container: Object) -> str:
    if "fieldRef" in source:
        fields = {"metadata.name": f"{PREFIX}-{component}-0", "status.podIP": POD_IP, INDEX_FIELD: "1"}
        return fields[source["fieldRef"]["fieldPath"]]
    if "resourceFieldRef" in source:
        wanted = source["resourceFieldRef"]
        assert wanted["resource"] == "limits.cpu"
        name = wanted.get("containerName", container["name"])
        [limited] = [c for c in pod["spec"]["containers"] if c["name"] == name]
        return str(_cores(limited["resources"]["limits"]["cpu"]))
    reference = source["secretKeyRef"]
    return {
        "password": "s3cretWith.Dots",
        "access-key-id": "id-of-key",
        "secret-access-key": "s3cretKey",
        "url": "rediss://user:pw@redis.data.svc:6380/0",
        "feedback-url": "postgresql://user:pw@pg.data.svc:5432/feedback",
        "conductor-url": "postgresql://user:pw@pg.data.svc:5432/conductor",
    }[reference["key"]]


def _cores(quantity: str | int) -> int:
    text = str(quantity)
    return -(-int(text[:-1]) // 1000) if text.endswith("m") else int(text)
