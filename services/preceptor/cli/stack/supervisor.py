"""supervisord (the package `supervisor`) as the supervisor of the embedded system.

It restarts what dies, keeps the logs and answers over XML-RPC on a unix socket. Each program starts behind `setpriv
--pdeathsig`, so that nothing outlives a supervisor that was itself killed.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import xmlrpc.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from preceptor.common.errors import InternalError, Unavailable
from preceptor.common.waiting import wait_until

RUNNING_STATES = {"RUNNING", "STARTING", "BACKOFF"}


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    stop_timeout_s: int = 45
    priority: int = 500
    start_seconds: int = 1
    done_codes: tuple[int, ...] | None = None
    """Exit codes that end a job for good; None: the process belongs up and is always started again."""

    def section(self, logs_dir: Path) -> str:
        """The program as a section of supervisord.conf."""
        environment = ",".join(f'{key}="{_escaped(value)}"' for key, value in sorted(self.env.items()))
        lines = [
            f"[program:{self.name}]",
            f"command={_escaped(' '.join(_quoted(part) for part in (*_leash(), *self.argv)))}",
            f"environment={environment}" if environment else "",
            f"stdout_logfile={_escaped(str(logs_dir / (self.name + '.log')))}",
            "redirect_stderr=true",
            "stdout_logfile_maxbytes=32MB",
            "stdout_logfile_backups=1",
            "autostart=true",
            "autorestart=true" if self.done_codes is None else "autorestart=unexpected",
            f"exitcodes={','.join(str(code) for code in self.done_codes or (0,))}",
            f"startsecs={self.start_seconds}",
            "startretries=1000000",
            f"stopwaitsecs={self.stop_timeout_s}",
            "killasgroup=true",
            f"priority={self.priority}",
        ]
        return "\n".join(line for line in lines if line) + "\n"


def _leash() -> tuple[str, ...]:
    """The prefix that ends a program when its supervisor dies; empty where util-linux is absent."""
    path = shutil.which("setpriv")
    return (path, "--pdeathsig", "TERM", "--") if path else ()


def _escaped(text: str) -> str:
    """supervisord expands %(name)s in every value."""
    return text.replace("%", "%%")


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '\\"') + '"' if not part or any(c in part for c in " \t;'\"") else part


def config_text(*, directory: Path, socket: Path, logs_dir: Path, programs: list[Program]) -> str:
    """A whole supervisord.conf. Learner jobs are added later as files under `jobs/`."""
    head = f"""\
[supervisord]
logfile={_escaped(str(logs_dir / "supervisord.log"))}
pidfile={_escaped(str(directory / "supervisord.pid"))}
childlogdir={_escaped(str(logs_dir))}
loglevel=info
nodaemon=false
minfds=1024

[unix_http_server]
file={_escaped(str(socket))}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[include]
files={_escaped(str(directory / "jobs"))}/*.conf

"""
    return head + "\n".join(program.section(logs_dir) for program in programs)


class Supervisor:
    """A client of one supervisord, which it can also start."""

    def __init__(self, config: Path, socket: Path) -> None:
        self._config = config
        self._socket = socket

    def _proxy(self) -> Any:
        transport = SupervisorTransport(None, None, serverurl=f"unix://{self._socket}")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def is_running(self) -> bool:
        """Whether a supervisord answers on the socket."""
        if not self._socket.exists():
            return False
        try:
            self._proxy().getState()
        except xmlrpc.client.Fault:
            return True  # it is shutting down, and answers nothing else
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return False
        return True

    def start(self, timeout_s: float = 15.0) -> None:
        """Starts supervisord in the background; returns when it answers."""
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._config)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            check=False,
        )
        if done.returncode != 0:
            raise InternalError(f"supervisord did not start: {(done.stderr or done.stdout).strip()}")
        wait_until(self.is_running, timeout_s=timeout_s, what="supervisord to answer on its socket")

    def shutdown(self, timeout_s: float = 120.0) -> None:
        """Stops every process (SIGTERM, later SIGKILL of its group) and supervisord itself."""
        try:
            pid = self.pid()
            self._ask_to_shut_down()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"supervisord does not answer on {self._socket}: {error}") from error
        wait_until(lambda: not psutil.pid_exists(pid), timeout_s=timeout_s, what="the processes to stop")

    def pid(self) -> int:
        """supervisord's own process id."""
        return int((self._config.parent / "supervisord.pid").read_text())

    def _ask_to_shut_down(self) -> None:
        try:
            self._proxy().shutdown()
        except xmlrpc.client.Fault as fault:
            if "SHUTDOWN_STATE" not in fault.faultString:
                raise InternalError(f"supervisord does not shut down: {fault.faultString}") from fault

    def processes(self) -> list[dict[str, Any]]:
        """supervisord's process table: name, statename, pid, description, spawnerr, …"""
        try:
            return list(self._proxy().getAllProcessInfo())
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"supervisord does not answer on {self._socket}: {error}") from error

    def add(self, name: str) -> None:
        """Starts a program whose section was written after supervisord started."""
        proxy = self._proxy()
        proxy.reloadConfig()
        try:
            proxy.addProcessGroup(name)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_ADDED" not in fault.faultString:
                raise InternalError(f"supervisord refused {name}: {fault.faultString}") from fault

    def remove(self, name: str) -> None:
        """Stops and forgets a program; one that was never there is fine."""
        if any(row["name"] == name for row in self.processes()):
            self.stop(name)
            self._proxy().removeProcessGroup(name)

    def stop(self, name: str) -> None:
        """Stops one program and waits for it; one that does not run is left as it is."""
        try:
            self._proxy().stopProcess(name, True)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString and "BAD_NAME" not in fault.faultString:
                raise InternalError(f"supervisord could not stop {name}: {fault.faultString}") from fault
