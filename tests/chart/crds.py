"""The parts of other people's CRDs that the chart uses, strict: a field that is not here is one the chart misspelt.

KEDA 2.21's ScaledObject (keda.sh/v1alpha1) and the Prometheus operator's PodMonitor and PrometheusRule
(monitoring.coreos.com/v1), from their API references.
"""

from typing import Any


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 0}
_WINDOW = _object([], stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600})
_METADATA = _object(["name"], name=_TEXT, namespace=_TEXT, labels={"type": "object"}, annotations={"type": "object"})
_TRIGGER = _object(
    ["type", "metadata"],
    type={"const": "prometheus"},
    metricType={"enum": ["AverageValue", "Value"]},
    metadata={
        **_object(["serverAddress", "query", "threshold"], serverAddress=_TEXT, query=_TEXT, threshold=_TEXT),
        "additionalProperties": {"type": "string"},
    },
)

SCALED_OBJECT = _object(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "keda.sh/v1alpha1"},
    kind={"const": "ScaledObject"},
    metadata=_METADATA,
    spec=_object(
        ["scaleTargetRef", "triggers"],
        scaleTargetRef=_object(["name"], apiVersion=_TEXT, kind=_TEXT, name=_TEXT),
        minReplicaCount=_COUNT,
        maxReplicaCount=_COUNT,
        fallback=_object(["failureThreshold", "replicas"], failureThreshold=_COUNT, replicas=_COUNT),
        advanced=_object(
            [], horizontalPodAutoscalerConfig=_object([], behavior=_object([], scaleUp=_WINDOW, scaleDown=_WINDOW))
        ),
        triggers={"type": "array", "minItems": 1, "items": _TRIGGER},
    ),
)

POD_MONITOR = _object(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PodMonitor"},
    metadata=_METADATA,
    spec=_object(
        ["selector", "podMetricsEndpoints"],
        selector=_object(["matchLabels"], matchLabels={"type": "object"}),
        podMetricsEndpoints={
            "type": "array",
            "minItems": 1,
            "items": _object(
                ["port"], port=_TEXT, path=_TEXT, interval={"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}
            ),
        },
    ),
)

PROMETHEUS_RULE = _object(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PrometheusRule"},
    metadata=_METADATA,
    spec=_object(
        ["groups"],
        groups={
            "type": "array",
            "minItems": 1,
            "items": _object(
                ["name", "rules"],
                name=_TEXT,
                rules={
                    "type": "array",
                    "items": _object(
                        ["alert", "expr"],
                        **{
                            "alert": _TEXT,
                            "expr": _TEXT,
                            "for": {"type": "string", "pattern": "^[0-9]+(s|m|h)$"},
                            "labels": {"type": "object"},
                            "annotations": {"type": "object"},
                        },
                    ),
                },
            ),
        },
    ),
)

SCHEMAS = {"ScaledObject": SCALED_OBJECT, "PodMonitor": POD_MONITOR, "PrometheusRule": PROMETHEUS_RULE}
