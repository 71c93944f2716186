"""The real supervisord: restarts what dies, leaves nothing behind."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from preceptor.cli.stack.supervisor import Supervisor
from preceptor.common.supervisord import Program, config_text
from preceptor.common.waiting import wait_until

SLEEPER = "import signal; signal.pause()"


def supervisor_for(tmp_path: Path, programs: list[Program]) -> Supervisor:
    logs = tmp_path / "logs"
    for folder in (logs, tmp_path / "jobs"):
        folder.mkdir()
    config, socket = tmp_path / "supervisord.conf", tmp_path / "s.sock"
    config.write_text(config_text(directory=tmp_path, socket=socket, logs_dir=logs, programs=programs))
    return Supervisor(config, socket)


def pids(supervisor: Supervisor) -> dict[str, int]:
    return {row["name"]: row["pid"] for row in supervisor.processes() if row["statename"] == "RUNNING"}


def running(supervisor: Supervisor, *names: str) -> None:
    wait_until(lambda: set(names) <= set(pids(supervisor)), timeout_s=20, what="programs to run")


@pytest.fixture
def supervisor(tmp_path):
    one = supervisor_for(tmp_path, [Program("sleeper", (sys.executable, "-c", SLEEPER), {"ODD": "a %(x)s 100%"})])
    one.start()
    pid = int((tmp_path / "supervisord.pid").read_text())
    yield one
    if psutil.pid_exists(pid):
        one.shutdown()


def test_a_killed_program_is_started_again(supervisor):
    running(supervisor, "sleeper")
    first = pids(supervisor)["sleeper"]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: pids(supervisor).get("sleeper", first) != first, timeout_s=20, what="the restart")


def test_environment_values_arrive_as_written(supervisor):
    running(supervisor, "sleeper")
    assert psutil.Process(pids(supervisor)["sleeper"]).environ()["ODD"] == "a %(x)s 100%"


def test_every_program_has_its_own_process_group(supervisor):
    running(supervisor, "sleeper")
    pid = pids(supervisor)["sleeper"]
    assert os.getpgid(pid) == pid


def test_shutdown_leaves_no_process(supervisor):
    running(supervisor, "sleeper")
    pid = pids(supervisor)["sleeper"]
    supervisor.shutdown()
    assert not psutil.pid_exists(pid)
    assert not supervisor.is_running()


def test_nothing_outlives_a_killed_supervisor(supervisor, tmp_path):
    running(supervisor, "sleeper")
    pid = pids(supervisor)["sleeper"]
    os.kill(int((tmp_path / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid), timeout_s=10, what="the program to end with its supervisor")


def test_a_program_added_later_runs_and_stops(supervisor, tmp_path):
    job = Program("job", (sys.executable, "-c", SLEEPER))
    (tmp_path / "jobs" / "job.conf").write_text(job.section(tmp_path / "logs"))
    supervisor.client.add("job")
    running(supervisor, "job", "sleeper")
    supervisor.client.add("job")
    supervisor.client.stop("job")
    assert "job" not in pids(supervisor)
