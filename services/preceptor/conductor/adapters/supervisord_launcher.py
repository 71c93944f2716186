"""Learner jobs as programs of the supervisord that already runs the services.

A job is one file in supervisord's include folder; adding and removing it goes over XML-RPC on a unix
socket. A job that dies by a signal is started again; exit codes 0 (done), 1 (failed for good) and 2 (wrong config) end
it.
"""

import re
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from preceptor.common.ports import SPAN, free_offset
from preceptor.common.supervisord import ENDED_STATES, Program, SupervisordClient
from preceptor.conductor.types import JobSpec, JobState, JobStatus

FINAL_EXIT_CODES = (0, 1, 2)
_LOG_LINES = 8
_STOP_TIMEOUT_S = 60  # a checkpoint is written before the job leaves
_PORTS = ("PRECEPTOR_LEARNER_PORT", "PRECEPTOR_LEARNER_METRICS_PORT")
_HOST = "PRECEPTOR_LEARNER_HOST"


class SupervisordLauncher:
    """A `Launcher`.

    Args:
        socket: supervisord's unix socket.
        jobs_dir: the folder that its [include] section reads (`*.conf`).
        logs_dir: where a job's log goes: <name>.log.
        environment: the environment of a job, by run kind. Its ports are the first of a range: each job gets a free
            pair, which it keeps when it is started again.
        command: argv of a job up to the config file.
    """

    def __init__(
        self,
        socket: Path,
        jobs_dir: Path,
        logs_dir: Path,
        environment: Callable[[str], Mapping[str, str]],
        command: tuple[str, ...] = (sys.executable, "-m", "preceptor.learner"),
    ) -> None:
        self._supervisord = SupervisordClient(socket)
        self._jobs_dir = jobs_dir
        self._logs_dir = logs_dir
        self._environment = environment
        self._command = command
        self._lock = threading.Lock()  # reloadConfig and addProcessGroup of two loops must not interleave

    def start(self, job: JobSpec) -> None:
        """Adds the program unless supervisord has it."""
        with self._lock:
            self._jobs_dir.mkdir(parents=True, exist_ok=True)
            path = self._file(job.run_id)
            text = self._program(job).section(self._logs_dir)
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                staged = path.with_suffix(".staged")
                staged.write_text(text, encoding="utf-8")
                staged.replace(path)
            self._supervisord.add(program_name(job.run_id))

    def status(self, run_id: str) -> JobStatus:
        """From supervisord's process table."""
        name = program_name(run_id)
        info = self._supervisord.call("getProcessInfo", name, ignore=("BAD_NAME",))
        if info is None:
            return JobStatus(JobState.ABSENT)
        if info["statename"] not in ENDED_STATES:
            well = info["statename"] in ("STARTING", "RUNNING")
            return JobStatus(JobState.RUNNING, int(info["pid"]), "" if well else str(info["description"]))
        code = int(info["exitstatus"])
        if info["statename"] == "EXITED" and code == 0:
            return JobStatus(JobState.SUCCEEDED)
        return JobStatus(JobState.FAILED, message=f"exit code {code}. {self._log_end(name)}")

    def stop(self, run_id: str) -> None:
        """SIGTERM, SIGKILL of the job's group after a minute; returns when it is gone."""
        self._supervisord.stop(program_name(run_id))

    def forget(self, run_id: str) -> None:
        """Stops the job and removes its file."""
        with self._lock:
            self._file(run_id).unlink(missing_ok=True)
            self._supervisord.remove(program_name(run_id))
            self._supervisord.call("reloadConfig")

    def _program(self, job: JobSpec) -> Program:
        return Program(
            program_name(job.run_id),
            (*self._command, job.config_path),
            self._with_ports(job),
            stop_timeout_s=_STOP_TIMEOUT_S,
            start_seconds=0,
            done_codes=FINAL_EXIT_CODES,
        )

    def _with_ports(self, job: JobSpec) -> dict[str, str]:
        """The job's environment with ports that no other job on this host has."""
        environment = dict(self._environment(job.kind))
        names = [name for name in _PORTS if name in environment]
        first = [int(environment[name]) for name in names]
        if not names:
            return environment
        own = self._ports_of(self._file(job.run_id))
        if len(own) != len(first) or own[0] not in range(first[0], first[0] + SPAN) or self._ended(job.run_id):
            host = environment.get(_HOST, "127.0.0.1")
            offset = free_offset(host, first, taken=self._ports_of_others(job.run_id))
            own = [port + offset for port in first]
        return environment | dict(zip(names, map(str, own), strict=True))

    def _ports_of_others(self, run_id: str) -> set[int]:
        """Those of jobs that have not ended, whether they listen just now or are about to."""
        others = [path for path in self._jobs_dir.glob("learner-*.conf") if path != self._file(run_id)]
        running = [path for path in others if not self._ended(path.stem.removeprefix("learner-"))]
        return {port for path in running for port in self._ports_of(path)}

    def _ports_of(self, path: Path) -> list[int]:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        found = [re.search(rf'{name}="(\d+)"', text) for name in _PORTS]
        return [int(match[1]) for match in found if match]

    def _ended(self, run_id: str) -> bool:
        info = self._supervisord.call("getProcessInfo", program_name(run_id), ignore=("BAD_NAME",))
        return info is None or info["statename"] in ENDED_STATES

    def _file(self, run_id: str) -> Path:
        return self._jobs_dir / f"{program_name(run_id)}.conf"

    def _log_end(self, name: str) -> str:
        path = self._logs_dir / f"{name}.log"
        if not path.is_file():
            return f"It left no log at {path}"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        return f"The end of {path}:\n" + "\n".join(lines)


def program_name(run_id: str) -> str:
    """supervisord's name of a run's job."""
    return f"learner-{run_id}"
