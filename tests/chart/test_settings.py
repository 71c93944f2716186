"""What containers are told is what their settings classes take, and what they open is what others look for."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from preceptor.common.config import ServiceSettings
from preceptor.conductor.adapters.kubernetes.launcher import KubernetesLauncher, load_template
from preceptor.conductor.config import ConductorSettings
from preceptor.conductor.types import JobSpec
from preceptor.learner import __main__ as learner_main
from preceptor.learner.config import LearnerSettings
from tests.chart.rendering import (
    NAMESPACE,
    POD_IP,
    PREFIX,
    PRESETS,
    containers,
    environment,
    learner_jobs,
    named,
    of_kind,
    pods,
    render,
    switched,
)
from tests.support.kubernetes_api import KubernetesApi, serving

SETTINGS = {
    "preceptor.generation": "preceptor.generation.config:GenerationSettings",
    "preceptor.rollout.worker": "preceptor.rollout.config:RolloutSettings",
    "preceptor.reward": "preceptor.reward.config:RewardSettings",
    "preceptor.feedback": "preceptor.feedback.config:FeedbackSettings",
    "preceptor.feedback.worker": "preceptor.feedback.config:FeedbackWorkerSettings",
    "preceptor.conductor": "preceptor.conductor.config:ConductorSettings",
    "preceptor.learner": "preceptor.learner.config:LearnerSettings",
    "preceptor.console": "preceptor.console.config:ConsoleSettings",
}
EXTERNAL_REDIS = switched(
    redis__bundled__enabled=False,
    redis__external={"existingSecret": "r", "networkPeers": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
)


def parsed(env: dict[str, str], module: str) -> ServiceSettings:
    """The settings, after checking that no variable is one that nobody reads."""
    path, _, attribute = SETTINGS[module].partition(":")
    settings_class: type[ServiceSettings] = getattr(importlib.import_module(path), attribute)
    known = {settings_class.variable(field) for field in settings_class.model_fields}
    assert {name for name in env if name.startswith("PRECEPTOR_")} <= known
    with mock.patch.dict(os.environ, env, clear=True):
        return settings_class()


def services(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any], ServiceSettings]]:
    """(component, pod, container, settings) of each container that runs a service of ours."""
    for component, pod, container in containers(objects):
        command = container.get("command", [])
        if command[:2] == ["python", "-m"]:
            yield component, pod, container, parsed(environment(component, pod, container), command[2])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_service_takes_its_environment(preset: str) -> None:
    found = {container["command"][2]: settings for _, _, container, settings in services(render(preset))}
    assert set(found) == set(SETTINGS)
    for settings in found.values():
        assert settings.log_format == "json"
        assert settings.instance.startswith(f"{PREFIX}-")


def test_a_model_folder_is_served_in_place_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    changes = switched(conductor__enabled=False, generation={"runId": "", "modelDir": str(tmp_path)})
    [generation] = [s for c, *_, s in services(render(changes=changes)) if c == "generation"]
    assert generation.model_dump()["model_dir"] == tmp_path
    startup = named(render(changes=changes), "StatefulSet", "generation")["spec"]["template"]["spec"]["containers"][0]
    assert startup["startupProbe"]["httpGet"]["path"] == "/readyz"


def test_values_reach_the_settings() -> None:
    changes = switched(
        generation={"maxNumSeqs": 7, "kvCacheGib": 1.5, "drainTimeoutSeconds": 11},
        reward={"models": ["a=models/a@2", "b=pkg.mod:fn"], "current": "b", "allowFunctions": True},
        rollout__concurrency=5,
        feedbackWorker={"overlapShare": 0.25, "overlapRaters": 4},
        feedback__maxOpenComparisons=2_000_000,
        console__allowedHosts=["labels.example.com"],
        logging__level="DEBUG",
    )
    found = {component: settings.model_dump() for component, *_, settings in services(render(changes=changes))}
    assert found["generation"]["max_num_seqs"] == 7
    assert found["generation"]["kv_cache_gib"] == 1.5
    assert found["generation"]["drain_timeout_s"] == 11
    assert found["reward"]["current"] == "b"
    assert found["reward"]["allow_functions"] is True
    assert found["rollout"]["concurrency"] == 5
    assert found["feedback-worker"]["overlap_share"] == 0.25
    assert found["feedback-worker"]["overlap_raters"] == 4
    assert found["feedback"]["max_open_comparisons"] == 2_000_000
    assert "labels.example.com" in found["console"]["allowed_hosts"].split(",")
    assert {settings["log_level"] for settings in found.values()} == {"DEBUG"}


@pytest.mark.parametrize("changes", [{}, EXTERNAL_REDIS], ids=["bundled", "external"])
def test_everybody_uses_the_same_redis(changes: dict[str, Any]) -> None:
    [url] = {settings.redis_url for *_, settings in services(render(changes=changes))}
    expected = f"redis://:s3cretWith.Dots@{PREFIX}-redis:6379/0"
    assert url == ("rediss://user:pw@redis.data.svc:6380/0" if changes else expected)


def test_votes_and_loop_state_are_two_databases() -> None:
    objects = render()
    urls = {
        s.instance: s.model_dump()["database_url"] for *_, s in services(objects) if "database_url" in s.model_dump()
    }
    assert {url.rpartition("/")[2] for url in urls.values()} == {"feedback", "conductor"}
    assert len({url.rpartition("/")[0] for url in urls.values()}) == 1
    scripts = named(objects, "ConfigMap", "postgresql")["data"]
    assert "CREATE DATABASE conductor;" in scripts["conductor.sql"]


def test_processes_open_the_ports_that_are_declared() -> None:
    for component, _, container, settings in services(render()):
        declared = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert declared.pop("metrics") == settings.metrics_port
        assert list(declared.values()) == ([settings.port] if settings.port else []), component


def test_processes_listen_where_others_reach_them() -> None:
    for component, *_, settings in services(render()):
        assert settings.host == (POD_IP if component == "learner" else "0.0.0.0")
        assert settings.model_dump().get("advertised_host", POD_IP) == POD_IP


def test_addresses_lead_to_services_and_on_to_ports() -> None:
    objects = render()
    listening = {
        service["metadata"]["name"]: {port["port"]: port["targetPort"] for port in service["spec"]["ports"]}
        for service in of_kind(objects, "Service")
    }
    seen = set()
    for _, _, _, settings in services(objects):
        for field, value in settings.model_dump().items():
            if field.endswith("_address") and value:
                host, _, port = str(value).removeprefix("dns:///").rpartition(":")
                assert listening[host][int(port)] == "grpc"
                seen.add(host)
    assert seen == {f"{PREFIX}-{name}" for name in ("reward", "feedback", "conductor")}


def test_services_select_pods_that_have_the_ports() -> None:
    objects = render()
    for service in of_kind(objects, "Service"):
        selected = [
            p for _, p in pods(objects) if service["spec"]["selector"].items() <= p["metadata"]["labels"].items()
        ]
        assert len(selected) == 1, service["metadata"]["name"]
        ports = {p["name"]: p["containerPort"] for c in selected[0]["spec"]["containers"] for p in c.get("ports", [])}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


def test_grpc_services_are_headless_and_the_stateful_set_names_its_own() -> None:
    objects = render()
    for stage in ("generation", "reward", "feedback", "conductor"):
        assert named(objects, "Service", stage)["spec"]["clusterIP"] == "None"
    for item in of_kind(objects, "StatefulSet"):
        assert item["spec"]["serviceName"] in {s["metadata"]["name"] for s in of_kind(objects, "Service")}


def test_grace_periods_hold_the_drain() -> None:
    for component, pod, container, settings in services(render("gpu")):
        pre_stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        grace = pod["spec"]["terminationGracePeriodSeconds"]
        assert grace >= pre_stop + settings.drain_timeout_s + 5, component


def test_learner_jobs_are_told_what_the_services_are_told() -> None:
    found = {component: settings for component, *_, settings in services(render())}
    learner, conductor = found["learner"], found["conductor"]
    assert isinstance(learner, LearnerSettings)
    assert isinstance(conductor, ConductorSettings)
    assert learner.threads == 4, "the container's CPU limit"
    assert (learner.redis_url, learner.artifacts_url) == (conductor.redis_url, conductor.artifacts_url)
    assert learner.reward_address == conductor.reward_address


def test_the_conductor_makes_jobs_from_the_mounted_template(tmp_path: Path) -> None:
    objects = render()
    pod = named(objects, "Deployment", "conductor")["spec"]["template"]
    [container] = pod["spec"]["containers"]
    told = environment("conductor", pod, container)
    folder, _, name = told["PRECEPTOR_CONDUCTOR_JOB_TEMPLATE"].rpartition("/")
    [mount] = [m for m in container["volumeMounts"] if m["mountPath"] == folder]
    [volume] = [v for v in pod["spec"]["volumes"] if v["name"] == mount["name"]]
    [config] = [o for o in of_kind(objects, "ConfigMap") if o["metadata"]["name"] == volume["configMap"]["name"]]
    path = tmp_path / name
    path.write_text(config["data"][name])
    assert load_template(path)["metadata"]["name"] == f"{PREFIX}-learner"
    assert told["PRECEPTOR_CONDUCTOR_NAMESPACE"] == NAMESPACE
    assert told["PRECEPTOR_CONDUCTOR_OWNER_DEPLOYMENT"] == named(objects, "Deployment", "conductor")["metadata"]["name"]


def test_a_new_template_restarts_the_conductor_and_nothing_else_does() -> None:
    def annotations(**changes: Any) -> dict[str, str]:
        pod = named(render(changes=switched(**changes)), "Deployment", "conductor")["spec"]["template"]
        found: dict[str, str] = pod["metadata"]["annotations"]
        return found

    assert annotations() == annotations(rollout__concurrency=5)
    assert annotations() != annotations(learner__resources__limits__cpu=8)


def test_workers_of_a_job_find_each_other(tmp_path: Path) -> None:
    objects = render(changes=switched(learner__workers=3))
    [job] = learner_jobs(objects)
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (3, 3)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    api = KubernetesApi()
    with serving(api) as client:
        launcher = KubernetesLauncher(client, "", load_template(path))
        launcher.start(JobSpec("loop-rl", "rl", "/artifacts/loop.yaml"))
        launcher.close()
    [name] = api.named("jobs")
    pod = api.objects["jobs", name]["spec"]["template"]
    [container] = pod["spec"]["containers"]
    env = environment("learner", pod, container)
    service = named(objects, "Service", "learner")
    assert env["MASTER_ADDR"] == f"{name}-0.{service['metadata']['name']}"
    assert env["MASTER_PORT"] == str(service["spec"]["ports"][0]["port"])
    assert (env["RANK"], env["WORLD_SIZE"]) == ("1", "3")
    [alone] = learner_jobs(render())
    [container] = alone["spec"]["template"]["spec"]["containers"]
    assert "WORLD_SIZE" not in environment("learner", alone["spec"]["template"], container)


def test_exit_codes_that_end_a_job_are_the_learners_own() -> None:
    [job] = learner_jobs(render())
    rules = job["spec"]["podFailurePolicy"]["rules"]
    codes = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule}
    assert codes == {
        "FailJob": [learner_main.EXIT_FAILED, learner_main.EXIT_CONFIG],
        "Ignore": [learner_main.EXIT_TRY_AGAIN, learner_main.EXIT_INTERRUPTED],
    }
    assert job["spec"]["podReplacementPolicy"] == "Failed"


def test_the_console_answers_to_its_names() -> None:
    [console] = [s for c, *_, s in services(render("production")) if c == "console"]
    hosts = console.model_dump()["allowed_hosts"].split(",")
    ingress = of_kind(render("production"), "Ingress")[0]["spec"]["rules"][0]["host"]
    assert {"localhost", f"{PREFIX}-console", f"{PREFIX}-console.{NAMESPACE}.svc", ingress} <= set(hosts)


def test_redis_keeps_what_it_acknowledged() -> None:
    config = named(render(), "ConfigMap", "redis")["data"]["redis.conf"].splitlines()
    for line in ("appendonly yes", "appendfsync no", "maxmemory-policy noeviction", 'save ""'):
        assert line in config
    always = named(render(changes=switched(redis__bundled__appendfsync="always")), "ConfigMap", "redis")
    assert "appendfsync always" in always["data"]["redis.conf"]
