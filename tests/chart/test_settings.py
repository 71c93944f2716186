"""What containers are told is what their settings classes take, and what they open is what others look for."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from preceptor.common.config import ServiceSettings
from preceptor.conductor.config import ConductorSettings
from preceptor.learner.config import LearnerSettings
from tests.chart.rendering import (
    NAMESPACE,
    POD_IP,
    PREFIX,
    PRESETS,
    containers,
    environment,
    named,
    of_kind,
    pods,
    render,
    switched,
)

SETTINGS = {
    "preceptor.generation": "preceptor.generation.config:GenerationSettings",
    "preceptor.rollout.worker": "preceptor.rollout.config:RolloutSettings",
    "preceptor.reward": "preceptor.reward.config:RewardSettings",
    "preceptor.feedback": "preceptor.feedback.config:FeedbackSettings",
    "preceptor.feedback.worker": "preceptor.feedback.config:FeedbackWorkerSettings",
    "preceptor.conductor": "preceptor.conductor.config:ConductorSettings",
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
        assert settings.host == (POD_IP if component == "conductor" else "0.0.0.0")
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
            if field.endswith("_address"):
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


def test_learner_jobs_are_told_what_the_learner_takes() -> None:
    [conductor] = [s for *_, s in services(render()) if isinstance(s, ConductorSettings)]
    for kind, port in (("rl", 7140), ("sft", 7141), ("reward", 7141)):
        env = conductor.job_environment(kind)
        with mock.patch.dict(os.environ, env, clear=True):
            job = LearnerSettings()
        assert (job.host, job.port, job.metrics_port) == (POD_IP, port, port + 100)
        assert job.threads == 4, "the learner container's CPU limit"
        assert job.redis_url == conductor.redis_url


def test_conductor_and_supervisord_meet_in_shared_folders() -> None:
    pod = named(render(), "Deployment", "conductor")["spec"]["template"]
    conductor, learner = pod["spec"]["containers"]
    run_dir = environment("conductor", pod, learner)["PRECEPTOR_RUN_DIR"]
    told = environment("conductor", pod, conductor)
    for name in ("SUPERVISOR_SOCKET", "JOBS_DIR", "LOGS_DIR"):
        assert told[f"PRECEPTOR_CONDUCTOR_{name}"].startswith(f"{run_dir}/")
    for folder in (run_dir, told["PRECEPTOR_CONDUCTOR_ARTIFACTS_URL"].removeprefix("file://")):
        mounts = [{m["mountPath"]: m for m in c["volumeMounts"]}[folder] for c in (conductor, learner)]
        assert mounts[0] == mounts[1]
        assert not mounts[0].get("readOnly")


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
