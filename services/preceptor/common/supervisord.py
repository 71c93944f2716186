"""supervisord (the package `supervisor`): programs as sections of its config, and its XML-RPC over a unix socket.

Each program starts behind `setpriv --pdeathsig`, so that nothing outlives a supervisor that was itself killed.
"""

from __future__ import annotations

import http.client
import shutil
import xmlrpc.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from preceptor.common.errors import InternalError, Unavailable

ENDED_STATES = frozenset({"EXITED", "FATAL", "STOPPED"})


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process.

    done_codes: exit codes that end a job for good; without them the process belongs up and is always started again.
    start_seconds: how long it must stay up to count as started; 0 for jobs, which may end at once.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    stop_timeout_s: int = 45
    priority: int = 500
    start_seconds: int = 1
    done_codes: tuple[int, ...] = ()

    def section(self, logs_dir: Path) -> str:
        """The program as a section of supervisord.conf; it logs to <name>.log."""
        environment = ",".join(f'{key}="{_escaped(value)}"' for key, value in sorted(self.env.items()))
        command = " ".join(_quoted(part) for part in (*_leash(), *self.argv))
        lines = [
            f"[program:{self.name}]",
            f"command={_escaped(command)}",
            f"environment={environment}" if environment else "",
            f"stdout_logfile={_escaped(str(logs_dir / (self.name + '.log')))}",
            "redirect_stderr=true",
            "stdout_logfile_maxbytes=32MB",
            "stdout_logfile_backups=1",
            "autostart=true",
            f"autorestart={'unexpected' if self.done_codes else 'true'}",
            f"exitcodes={','.join(map(str, self.done_codes))}" if self.done_codes else "",
            f"startsecs={self.start_seconds}",
            "startretries=1000000",
            f"stopwaitsecs={self.stop_timeout_s}",
            "killasgroup=true",
            f"priority={self.priority}",
        ]
        return "\n".join(line for line in lines if line) + "\n"


def config_text(*, directory: Path, socket: Path, logs_dir: Path, programs: list[Program]) -> str:
    """A whole supervisord.conf. Jobs are added later as files under `<directory>/jobs`."""
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


class SupervisordClient:
    """The XML-RPC of one supervisord. Threads may share it: every call has a connection of its own."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def call(self, method: str, *args: Any, ignore: tuple[str, ...] = ()) -> Any:
        """The answer of supervisor.<method>, or None after a fault whose name is in `ignore` (e.g. "BAD_NAME").

        Raises:
            Unavailable: nothing answers on the socket.
            InternalError: any other fault.
        """
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

    def add(self, name: str) -> None:
        """Starts a program whose section was written after supervisord started; one that is there stays as it is."""
        self.call("reloadConfig")
        self.call("addProcessGroup", name, ignore=("ALREADY_ADDED",))

    def stop(self, name: str) -> None:
        """SIGTERM, SIGKILL of the group after its stop timeout; returns when it is gone, or was not running."""
        self.call("stopProcess", name, True, ignore=("NOT_RUNNING", "BAD_NAME"))

    def remove(self, name: str) -> None:
        """Stops and forgets a program; one that was never there is fine."""
        self.stop(name)
        self.call("removeProcessGroup", name, ignore=("BAD_NAME",))


def _leash() -> tuple[str, ...]:
    """The prefix that ends a program when its supervisor dies; empty where util-linux is absent."""
    path = shutil.which("setpriv")
    return (path, "--pdeathsig", "TERM", "--") if path else ()


def _escaped(text: str) -> str:
    """supervisord expands %(name)s in every value."""
    return text.replace("%", "%%")


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '\\"') + '"' if not part or any(c in part for c in " \t;'\"") else part
