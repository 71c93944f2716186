"""Light code imports without the ML stack: a laptop's console must not wait for torch, nor need it installed."""

import subprocess
import sys
from pathlib import Path

import pytest

SERVICES = Path(__file__).parents[2] / "services" / "preceptor"
CONFIGS = sorted(path.parent.name for path in SERVICES.glob("*/config.py"))

_PROBE = """
import importlib, pkgutil, sys

FORBIDDEN = {"torch", "vllm", "transformers"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is forbidden here")

sys.meta_path.insert(0, Refuse())

def walk(name):
    module = importlib.import_module(name)
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if found.name != "__main__":
            walk(f"{name}.{found.name}")

walk(sys.argv[1])
"""


@pytest.mark.parametrize("package", ["common", "clients", "feedback", "console", "conductor", "rollout", "api"])
def test_package_imports_without_the_ml_stack(package: str) -> None:
    result = _import(f"preceptor.{package}")
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize("service", CONFIGS)
def test_config_imports_without_the_ml_stack(service: str) -> None:
    result = _import(f"preceptor.{service}.config")
    assert result.returncode == 0, result.stderr[-3000:]


def test_run_configs_import_without_the_ml_stack() -> None:
    result = _import("preceptor.learner.run_configs")
    assert result.returncode == 0, result.stderr[-3000:]


def _import(name: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", _PROBE, name], capture_output=True, text=True, check=False)
