"""Learner jobs without Kubernetes: the conductor's launcher and the supervisord of compose's learner service."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from preceptor.common.waiting import wait_until
from preceptor.conductor.adapters.supervisord_launcher import SupervisordLauncher
from preceptor.conductor.types import JobSpec, JobState
from tests.chart.rendering import ROOT
from tests.chart.test_compose_and_procfile import compose

JOB = """
import os, pathlib, sys, time
runs = pathlib.Path(os.environ["STATE"]) / "starts"
starts = len(runs.read_text()) if runs.exists() else 0
runs.write_text("x" * (starts + 1))
print("port", os.environ["PRECEPTOR_LEARNER_PORT"], flush=True)
if starts == 0:
    time.sleep(600)  # until it is killed
"""


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[SupervisordLauncher]:
    """Both sides as compose starts them, with /run/preceptor elsewhere."""
    learner = compose()["learner"]
    run_dir = tmp_path / "run"
    conf = ROOT / "deploy" / "docker" / "supervisord.conf"
    command = [
        part.replace("/run/preceptor", str(run_dir)).replace("/etc/preceptor/supervisord.conf", str(conf))
        for part in learner["command"]
    ]
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PRECEPTOR_RUN_DIR": str(run_dir)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until((run_dir / "supervisor.sock").exists, 20, "supervisord's socket")
        probe = learner["healthcheck"]["test"][1:]  # after CMD
        answers = [part.replace("/etc/preceptor/supervisord.conf", str(conf)) for part in probe]
        subprocess.run(answers, env=env, check=True, capture_output=True)
        yield SupervisordLauncher(
            run_dir / "supervisor.sock",
            run_dir / "jobs",
            run_dir / "logs",
            lambda kind: {"PRECEPTOR_LEARNER_PORT": "7140", "STATE": str(tmp_path)},
            command=(sys.executable,),
        )
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def test_a_job_starts_survives_a_kill_and_ends(launcher: SupervisordLauncher, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(JOB)
    log = tmp_path / "run" / "logs" / "learner-loop-rl.log"
    launcher.start(JobSpec("loop-rl", "rl", str(script)))
    wait_until(lambda: log.exists() and "port 7140" in log.read_text(), 20, "the job's first line")
    status = launcher.status("loop-rl")
    assert status.state is JobState.RUNNING
    assert status.pid
    os.kill(status.pid, signal.SIGKILL)
    wait_until(lambda: launcher.status("loop-rl").state is JobState.SUCCEEDED, 20, "the second start's end")
    assert (tmp_path / "starts").read_text() == "xx"
    launcher.forget("loop-rl")
    assert launcher.status("loop-rl").state is JobState.ABSENT
