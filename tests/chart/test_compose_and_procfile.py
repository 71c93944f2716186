"""compose.yaml and Procfile run the same processes as the chart, told what their settings classes take."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from preceptor.conductor.config import ConductorSettings
from tests.chart.rendering import ROOT, containers, render
from tests.chart.test_settings import SETTINGS, parsed

DEPLOY = ROOT / "deploy"
MODULES = {
    "generation": "preceptor.generation",
    "rollout": "preceptor.rollout.worker",
    "reward": "preceptor.reward",
    "feedback": "preceptor.feedback",
    "feedback-worker": "preceptor.feedback.worker",
    "conductor": "preceptor.conductor",
    "console": "preceptor.console",
}


def compose() -> dict[str, Any]:
    """The services, ${NAME:-default} replaced by the defaults."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / "compose.yaml").read_text())
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    return services


def procfile() -> dict[str, str]:
    lines = [line for line in (DEPLOY / "Procfile").read_text().splitlines() if not line.startswith("#")]
    return dict(line.split(": ", 1) for line in lines)


def test_both_run_the_chart_s_processes() -> None:
    chart = {component for component, *_ in containers(render())} - {"test"}
    assert set(compose()) == chart
    assert set(procfile()) == chart - {"postgresql"}, "SQLite there"


@pytest.mark.parametrize("name", MODULES)
def test_compose_settings_are_taken(name: str) -> None:
    env = {key: str(value) for key, value in compose()[name]["environment"].items()}
    settings = parsed(env, MODULES[name])
    assert settings.redis_url == "redis://redis:6379/0"
    for field, value in settings.model_dump().items():
        if field.endswith("_address"):
            host, _, port = value.removeprefix("dns:///").rpartition(":")
            assert parsed(
                {key: str(text) for key, text in compose()[host]["environment"].items()}, MODULES[host]
            ).port == int(port)


@pytest.mark.parametrize("name", MODULES)
def test_compose_probes_the_metrics_port(name: str) -> None:
    service = compose()[name]
    settings = parsed({key: str(value) for key, value in service["environment"].items()}, MODULES[name])
    assert f":{settings.metrics_port}/healthz" in service["healthcheck"]["test"][-1]


def test_compose_containers_are_as_bounded_as_pods() -> None:
    for name, service in compose().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        published = [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")]
        assert published == []
        image = service["image"]
        assert image.startswith("preceptor-") or re.search(r":\d+\.\d+", image)


def test_compose_redis_is_the_chart_s() -> None:
    command = " ".join(compose()["redis"]["command"])
    assert "--appendonly yes --appendfsync no" in command
    assert "noeviction" in command


@pytest.mark.parametrize("name", MODULES)
def test_procfile_settings_are_taken(name: str, tmp_path: Path) -> None:
    command = procfile()[name].replace("exec python -m", "exec echo")
    env = procfile_environment(command, tmp_path)
    prefix = f"PRECEPTOR_{name.partition('-')[0].upper()}_"
    told = {key: value for key, value in env.items() if key.startswith(prefix)}
    settings = parsed(told, procfile()[name].rpartition(" ")[2])
    assert SETTINGS[procfile()[name].rpartition(" ")[2]]
    assert settings.artifacts_url == f"file://{tmp_path}/artifacts"
    assert settings.redis_url == "redis://127.0.0.1:6399/0"


def test_procfile_processes_share_no_port(tmp_path: Path) -> None:
    ports = []
    for name, module in MODULES.items():
        env = procfile_environment(procfile()[name], tmp_path)
        prefix = f"PRECEPTOR_{name.partition('-')[0].upper()}_"
        settings = parsed({key: value for key, value in env.items() if key.startswith(prefix)}, module)
        ports += [settings.metrics_port, *([settings.port] if settings.port else [])]
        if isinstance(settings, ConductorSettings):
            ports += [settings.learner_port, settings.learner_port + 1]
            assert str(settings.supervisor_socket.parent) == env["PRECEPTOR_RUN_DIR"]
    assert len(ports) == len(set(ports))


def procfile_environment(command: str, state: Path) -> dict[str, str]:
    """What a line's process would be told: the line with `env -0` in the program's place."""
    shown = re.sub(r"exec .*$", "env -0", command)
    done = subprocess.run(
        ["sh", "-c", shown],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "STATE": str(state)},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
