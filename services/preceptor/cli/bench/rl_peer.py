"""TRL as a peer: its environment, made once, and its program run in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from preceptor.common.errors import InternalError

TRL, TRL_WITH_PPO = "1.16.0", "1.12.0"
_PROGRAM = Path(__file__).with_name("rl_peer_program.py")
_INSTALL_TIMEOUT_S = 1800.0
PEER_TIMEOUT_S = 1800.0


class TrlPeer:
    """A virtual environment with TRL 1.16 in folder/trl, and beside it the package of 1.12, the last one with PPO."""

    def __init__(self, folder: Path) -> None:
        self._python = folder / "trl" / "bin" / "python"
        self._old = folder / "trl112"

    def prepare(self) -> None:
        """Makes the environment where it is not there yet; takes minutes."""
        if not self._python.is_file():
            click.echo(f"installing TRL {TRL} into {self._python.parents[1]} …", err=True)
            _call([sys.executable, "-m", "venv", str(self._python.parents[1])])
            _call([*self._pip, "torch==2.13.0", f"trl=={TRL}", "transformers", "datasets", "accelerate"])
        if not (self._old / "trl").is_dir():
            _call([*self._pip, "--no-deps", "--target", str(self._old), f"trl=={TRL_WITH_PPO}"])

    def run(self, job: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Returns what the program writes for the job."""
        path, out = folder / "job.json", folder / "out.json"
        path.write_text(json.dumps(job))
        env = {**os.environ, "OMP_NUM_THREADS": str(job["threads"])}
        env["PYTHONPATH"] = str(self._old) if job["algorithm"] == "ppo" else ""
        _call([str(self._python), str(_PROGRAM), str(path), str(out)], env=env, timeout_s=PEER_TIMEOUT_S)
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    @property
    def _pip(self) -> list[str]:
        return [str(self._python), "-m", "pip", "install", "-q"]


def _call(command: list[str], *, env: dict[str, str] | None = None, timeout_s: float = _INSTALL_TIMEOUT_S) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise InternalError(f"{' '.join(command[:4])} … failed:\n{(done.stdout + done.stderr)[-2000:]}")
