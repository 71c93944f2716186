"""Learner jobs under a real supervisord: started once, restarted after SIGKILL, ended by their exit code, forgotten."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preceptor.common.errors import Unavailable
from preceptor.common.waiting import wait_until
from preceptor.conductor.adapters.supervisord_launcher import SupervisordLauncher
from preceptor.conductor.types import JobSpec, JobState
from tests.support.ports import free_port

CONFIG = """\
[supervisord]
logfile={root}/supervisord.log
pidfile={root}/supervisord.pid
childlogdir={root}
nodaemon=true
[unix_http_server]
file={socket}
chmod=0700
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[include]
files={root}/jobs/*.conf
"""
# A job: notes its start, then does what its config file says ("sleep", or an exit code).
JOB = """\
import os, pathlib, socket, sys, time
path = pathlib.Path(sys.argv[1])
with open(path.with_suffix(".starts"), "a") as file:
    file.write(f"{os.getpid()} {os.environ['KIND']}\\n")
port = os.environ.get("PRECEPTOR_LEARNER_PORT")
if port:
    listener = socket.create_server(("127.0.0.1", int(port)))
    with open(path.with_suffix(".ports"), "a") as file:
        file.write(f"{port} {os.environ['PRECEPTOR_LEARNER_METRICS_PORT']}\\n")
what = path.read_text()
if what == "sleep":
    time.sleep(600)
print("the last words", flush=True)
sys.exit(int(what))
"""


def launcher_in(root: Path, environment: Callable[[str], dict[str, str]]) -> SupervisordLauncher:
    command = (sys.executable, str(root / "job.py"))
    return SupervisordLauncher(root / "s.sock", root / "jobs", root, environment, command=command)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[SupervisordLauncher]:
    root, path = tmp_path, tmp_path / "s.sock"
    (root / "jobs").mkdir()
    (root / "supervisord.conf").write_text(CONFIG.format(root=root, socket=path))
    (root / "job.py").write_text(JOB)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-c", str(root / "supervisord.conf")],
        stdout=subprocess.DEVNULL,
    )
    made = launcher_in(root, lambda kind: {"KIND": kind, "PERCENT": '100% "sure"'.replace('"', "'")})
    wait_until(path.exists, 20, "supervisord's socket")
    yield made
    process.terminate()
    process.wait(30)


def job(root: Path, what: str, run_id: str = "r1") -> JobSpec:
    path = root / f"{run_id}.yaml"
    path.write_text(what)
    return JobSpec(run_id, "rl", str(path))


def starts(root: Path, run_id: str = "r1") -> list[str]:
    path = root / f"{run_id}.starts"
    return path.read_text().splitlines() if path.exists() else []


def wait_for_state(launcher: SupervisordLauncher, run_id: str, state: JobState) -> None:
    wait_until(lambda: launcher.status(run_id).state is state, 30, f"{run_id} to be {state}")


def test_a_job_runs_with_its_environment_and_succeeds(launcher: SupervisordLauncher, tmp_path: Path) -> None:
    assert launcher.status("r1").state is JobState.ABSENT
    launcher.start(job(tmp_path, "0"))
    wait_for_state(launcher, "r1", JobState.SUCCEEDED)
    assert [line.split()[1] for line in starts(tmp_path)] == ["rl"]


def test_starting_twice_starts_once(launcher: SupervisordLauncher, tmp_path: Path) -> None:
    spec = job(tmp_path, "sleep")
    launcher.start(spec)
    wait_until(lambda: starts(tmp_path), 30, "the job's start")
    pid = launcher.status("r1").pid
    launcher.start(spec)
    assert launcher.status("r1").pid == pid
    assert len(starts(tmp_path)) == 1


@pytest.mark.usefixtures("launcher")
def test_jobs_on_one_host_have_ports_of_their_own_and_keep_them(tmp_path: Path) -> None:
    base = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        metrics = taken.getsockname()[1]  # the first pair is not free: something listens there
        ports_env = {"PRECEPTOR_LEARNER_PORT": str(base), "PRECEPTOR_LEARNER_METRICS_PORT": str(metrics)}
        launcher = launcher_in(tmp_path, lambda kind: {"KIND": kind, **ports_env})
        for run_id in ("r1", "r2"):
            launcher.start(job(tmp_path, "sleep", run_id))
        wait_until(lambda: ports(tmp_path, "r1") and ports(tmp_path, "r2"), 20, "both jobs to listen")
        (first,), (second,) = ports(tmp_path, "r1"), ports(tmp_path, "r2")
        assert len({first[0], second[0], base}) == 3
        assert first[0] - base == first[1] - metrics > 0
        launcher.start(job(tmp_path, "sleep", "r1"))
        os.kill(int(starts(tmp_path)[0].split()[0]), signal.SIGKILL)
        wait_until(lambda: len(ports(tmp_path, "r1")) == 2, 20, "the job to be started again")
        assert ports(tmp_path, "r1") == [first, first]


def ports(root: Path, run_id: str) -> list[tuple[int, int]]:
    path = root / f"{run_id}.ports"
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(int(port), int(metrics)) for port, metrics in rows]


def test_a_killed_job_is_started_again(launcher: SupervisordLauncher, tmp_path: Path) -> None:
    launcher.start(job(tmp_path, "sleep"))
    wait_until(lambda: starts(tmp_path), 30, "the job's start")
    os.kill(int(starts(tmp_path)[0].split()[0]), signal.SIGKILL)
    wait_until(lambda: len(starts(tmp_path)) == 2, 30, "the job's second start")
    assert launcher.status("r1").state is JobState.RUNNING


@pytest.mark.parametrize("code", [1, 2])
def test_a_job_that_fails_is_not_repeated_and_tells_why(
    launcher: SupervisordLauncher, tmp_path: Path, code: int
) -> None:
    launcher.start(job(tmp_path, str(code)))
    wait_for_state(launcher, "r1", JobState.FAILED)
    message = launcher.status("r1").message
    assert f"exit code {code}" in message
    assert "the last words" in message
    assert len(starts(tmp_path)) == 1


def test_forgetting_ends_the_job_and_removes_its_file(launcher: SupervisordLauncher, tmp_path: Path) -> None:
    launcher.start(job(tmp_path, "sleep"))
    wait_until(lambda: starts(tmp_path), 30, "the job's start")
    pid = int(starts(tmp_path)[0].split()[0])
    launcher.forget("r1")
    launcher.forget("r1")
    assert launcher.status("r1").state is JobState.ABSENT
    assert list((tmp_path / "jobs").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_other_jobs_run_on_while_one_is_added_and_forgotten(launcher: SupervisordLauncher, tmp_path: Path) -> None:
    launcher.start(job(tmp_path, "sleep", "long"))
    wait_until(lambda: starts(tmp_path, "long"), 30, "the long job's start")
    launcher.start(job(tmp_path, "0", "short"))
    wait_for_state(launcher, "short", JobState.SUCCEEDED)
    launcher.forget("short")
    assert len(starts(tmp_path, "long")) == 1
    assert launcher.status("long").state is JobState.RUNNING


def test_without_supervisord_the_error_names_the_socket(tmp_path: Path) -> None:
    launcher = SupervisordLauncher(tmp_path / "none.sock", tmp_path, tmp_path, lambda kind: {})
    with pytest.raises(Unavailable, match=r"none\.sock"):
        launcher.status("r1")
