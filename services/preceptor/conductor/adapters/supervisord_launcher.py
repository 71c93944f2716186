"""Learner jobs as programs of the supervisord that already runs the services.

A job is one file in supervisord's include folder; adding and removing it goes over XML-RPC on a unix
socket. A job that dies by a signal is started again; exit codes 0 (done), 1 (failed for good) and 2 (wrong config) end
it.
"""

import http.client
import shutil
import sys
import threading
import xmlrpc.client
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from preceptor.common.errors import InternalError, Unavailable
from preceptor.conductor.types import JobSpec, JobState, JobStatus

FINAL_EXIT_CODES = (0, 1, 2)
_LOG_LINES = 8
_ENDED = {"EXITED", "FATAL", "STOPPED"}


class SupervisordLauncher:
    """A `Launcher`.

    Args:
        socket: supervisord's unix socket.
        jobs_dir: the folder that its [include] section reads (`*.conf`).
        logs_dir: where a job's log goes: <name>.log.
        environment: the environment of a job, by run kind.
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
        self._socket = socket
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
            text = self.section(job)
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                staged = path.with_suffix(".staged")
                staged.write_text(text, encoding="utf-8")
                staged.replace(path)
            self._call("reloadConfig")
            self._call("addProcessGroup", program_name(job.run_id), ignore=("ALREADY_ADDED",))

    def status(self, run_id: str) -> JobStatus:
        """From supervisord's process table."""
        name = program_name(run_id)
        info = self._call("getProcessInfo", name, ignore=("BAD_NAME",))
        if info is None:
            return JobStatus(JobState.ABSENT)
        if info["statename"] not in _ENDED:
            return JobStatus(JobState.RUNNING, int(info["pid"]), str(info["description"]))
        code = int(info["exitstatus"])
        if info["statename"] == "EXITED" and code == 0:
            return JobStatus(JobState.SUCCEEDED)
        return JobStatus(JobState.FAILED, message=f"exit code {code}. {self._log_end(name)}")

    def stop(self, run_id: str) -> None:
        """SIGTERM to the job's group, SIGKILL after stopwaitsecs; returns when it is gone."""
        self._call("stopProcess", program_name(run_id), True, ignore=("NOT_RUNNING", "BAD_NAME"))

    def forget(self, run_id: str) -> None:
        """Stops the job and removes its file."""
        with self._lock:
            self._file(run_id).unlink(missing_ok=True)
            self.stop(run_id)
            self._call("removeProcessGroup", program_name(run_id), ignore=("BAD_NAME",))
            self._call("reloadConfig")

    def section(self, job: JobSpec) -> str:
        """The job as a section of supervisord.conf."""
        name = program_name(job.run_id)
        environment = ",".join(f'{k}="{_escaped(v)}"' for k, v in sorted(self._environment(job.kind).items()))
        command = " ".join(_quoted(part) for part in (*_leash(), *self._command, job.config_path))
        return "\n".join(
            (
                f"[program:{name}]",
                f"command={_escaped(command)}",
                f"environment={environment}",
                f"stdout_logfile={_escaped(str(self._logs_dir / f'{name}.log'))}",
                "redirect_stderr=true",
                "stdout_logfile_maxbytes=32MB",
                "stdout_logfile_backups=1",
                "autostart=true",
                "autorestart=unexpected",
                f"exitcodes={','.join(map(str, FINAL_EXIT_CODES))}",
                # 0: a job that ends at once has still run; how it ended is told by its exit code alone.
                "startsecs=0",
                "startretries=1000000",
                "stopwaitsecs=60",
                "stopasgroup=true",
                "killasgroup=true",
                "",
            )
        )

    def _file(self, run_id: str) -> Path:
        return self._jobs_dir / f"{program_name(run_id)}.conf"

    def _call(self, method: str, *args: Any, ignore: tuple[str, ...] = ()) -> Any:
        """The answer, or None after a fault to be ignored."""
        transport = SupervisorTransport(None, None, serverurl=f"unix://{self._socket}")
        proxy: Any = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*args)
        except xmlrpc.client.Fault as fault:
            if any(word in fault.faultString for word in ignore):
                return None
            raise InternalError(f"supervisord refused {method}{args}: {fault.faultString}") from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise Unavailable(f"supervisord does not answer on {self._socket}: {error}") from error
        finally:
            transport.close()

    def _log_end(self, name: str) -> str:
        path = self._logs_dir / f"{name}.log"
        if not path.is_file():
            return f"It left no log at {path}"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        return f"The end of {path}:\n" + "\n".join(lines)


def program_name(run_id: str) -> str:
    """supervisord's name of a run's job."""
    return f"learner-{run_id}"


def _leash() -> tuple[str, ...]:
    """The prefix that ends a job when its supervisor dies; empty where util-linux is absent."""
    path = shutil.which("setpriv")
    return (path, "--pdeathsig", "TERM", "--") if path else ()


def _escaped(text: str) -> str:
    """supervisord expands %(name)s in every value."""
    return text.replace("%", "%%")


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '\\"') + '"' if not part or any(c in part for c in " \t;'\"") else part
