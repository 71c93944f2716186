"""Wrong values are refused: by the schema where one is wrong by itself, by a sentence where two contradict."""

from typing import Any

import helm_python
import pytest
import yaml

from tests.chart.rendering import CHART, chart, render, switched

WRONG = {
    "an unknown key": ({"generatoin": {}}, "generatoin"),
    "an unknown key below": (switched(rollout__concurency=3), "concurency"),
    "an unknown key of a shared block": (switched(console__probes__startUpSeconds=3), "startUpSeconds"),
    "a number too large": (switched(rollout__concurrency=5000), "concurrency"),
    "a text for a number": (switched(reward__replicas="two"), "replicas"),
    "an unknown word": (switched(generation__dtype="int4"), "dtype"),
    "an image without a tag": (switched(redis__bundled__image="docker.io/library/redis"), "image"),
    "a digest that is none": (switched(generation__image__digest="sha256:12"), "digest"),
    "scaling to zero": (switched(rollout__autoscaling__minReplicas=0), "minReplicas"),
    "a budget of none": (switched(console__podDisruptionBudget__maxUnavailable=0), "maxUnavailable"),
    "a volume for one pod": (switched(artifacts__accessMode="ReadWriteOncePod"), "accessMode"),
    "a quantity that is none": (switched(artifacts__size="10 GB"), "size"),
    "a password that breaks an address": (switched(redis__bundled__password="a@b"), "password"),
    "a number as an annotation": (switched(console__podAnnotations={"a": 1}), "podAnnotations"),
    "an eviction policy of one's own": (switched(redis__bundled__maxmemory="most"), "maxmemory"),
    "a run id in capitals": (switched(generation__runId="Loop"), "runId"),
}

CONTRADICTIONS = {
    "two sources": (switched(generation__modelDir="/m"), "generation.runId and generation.modelDir: give exactly one"),
    "no source": (switched(generation__runId=""), "generation.runId and generation.modelDir: give exactly one"),
    "a loop and a fixed model": (
        switched(generation={"runId": "", "modelDir": "/m"}),
        "new policy versions would never be served",
    ),
    "a loop without raters": (
        switched(feedback__enabled=False),
        "a loop needs generation, rollout, reward and feedback",
    ),
    "rollouts without rewards": (switched(conductor__enabled=False, reward__enabled=False), "rollout workers call"),
    "a current model that is not loaded": (
        switched(reward={"models": ["a=x"], "current": "b"}),
        "reward.current is b, which is not in reward.models (a)",
    ),
    "workers without a service": (
        switched(conductor__enabled=False, feedback__enabled=False, console__enabled=False),
        "nobody could rank",
    ),
    "a console without a service": (
        switched(conductor__enabled=False, feedback__enabled=False, feedbackWorker__enabled=False),
        "would have nothing to show",
    ),
    "an ingress without a host": (switched(console__ingress__enabled=True), "console.ingress.host"),
    "an ingress that nobody passes": (
        switched(console__ingress={"enabled": True, "host": "a.example.com"}),
        "networkPolicy.consoleFrom",
    ),
    "two Redis": (switched(redis__external__url="redis://r:6379"), "redis.bundled.enabled and redis.external: use one"),
    "no Redis": (switched(redis__bundled__enabled=False), "give exactly one of redis.external.existingSecret"),
    "a password in a value": (
        switched(redis__bundled__enabled=False, redis__external__url="redis://:pw@r:6379/0"),
        "holds a password",
    ),
    "a Redis out of reach": (
        switched(redis__bundled__enabled=False, redis__external__url="redis://r:6379/0"),
        "redis.external.networkPeers",
    ),
    "two passwords": (
        switched(redis__bundled={"password": "a", "existingSecret": "b"}),
        "redis.bundled.existingSecret",
    ),
    "two PostgreSQLs": (switched(postgresql__external__existingSecret="pg"), "use one; set postgresql.bundled.enabled"),
    "no PostgreSQL": (switched(postgresql__bundled__enabled=False), "postgresql.external.existingSecret"),
    "a PostgreSQL out of reach": (
        switched(postgresql={"bundled": {"enabled": False}, "external": {"existingSecret": "pg"}}),
        "postgresql.external.networkPeers",
    ),
    "a claim and a class": (
        switched(artifacts={"existingClaim": "a", "storageClass": "b"}),
        "belong to a claim that the chart makes",
    ),
    "a bucket and a claim": (
        switched(artifacts={"existingClaim": "a", "s3": {"url": "s3://b/x"}}),
        "artifacts.s3.url and artifacts.existingClaim",
    ),
    "a bucket out of reach": (switched(artifacts__s3__url="s3://b/x"), "artifacts.s3.networkPeers"),
    "the least above the most": (
        switched(feedback__autoscaling={"enabled": True, "minReplicas": 9, "maxReplicas": 3}),
        "minReplicas (9) is above maxReplicas (3)",
    ),
    "KEDA without Prometheus": (switched(rollout__autoscaling__enabled=True), "monitoring.prometheusAddress"),
    "CPU scaling without a request": (
        switched(console={"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}}),
        "console.resources.requests.cpu",
    ),
    "a monitor that is kept out": (switched(monitoring__podMonitor__enabled=True), "networkPolicy.metricsFrom"),
}


@pytest.mark.parametrize("case", WRONG)
def test_schema_refuses(case: str) -> None:
    values, word = WRONG[case]
    with pytest.raises(helm_python.HelmError, match=word):
        render(changes=values)


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_validation_refuses_with_a_sentence(case: str) -> None:
    values, sentence = CONTRADICTIONS[case]
    with pytest.raises(helm_python.HelmError) as refused:
        chart().render(values, name="demo", namespace="rl")
    assert sentence in str(refused.value)


def test_all_contradictions_are_told_at_once() -> None:
    with pytest.raises(helm_python.HelmError) as refused:
        render(
            changes=switched(
                generation__runId="",
                redis__external__url="redis://r",
                artifacts={"existingClaim": "a", "volumeName": "b"},
            )
        )
    assert str(refused.value).count("\n- ") == 3


def test_schema_and_values_list_the_same_keys() -> None:
    schema = chart().schema
    assert schema is not None
    definitions = schema["definitions"]

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        return definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else node

    def compare(node: dict[str, Any], values: Any, path: str) -> None:
        node = resolved(node)
        if "properties" not in node:
            return
        assert node["additionalProperties"] is False, path
        assert set(node["properties"]) - {"global"} == set(values), path
        for key, value in values.items():
            compare(node["properties"][key], value, f"{path}.{key}")

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    compare(schema, values, "values")


def test_every_block_of_values_has_a_comment() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith((" ", "#")) and line.endswith(":"):
            near = lines[max(0, number - 4) : number + 3]
            assert any(text.lstrip().startswith("#") for text in near), line
