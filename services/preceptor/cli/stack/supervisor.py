"""supervisord as the supervisor of the embedded system: it restarts what dies and keeps the logs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from preceptor.common.errors import InternalError, Unavailable
from preceptor.common.supervisord import ENDED_STATES, SupervisordClient
from preceptor.common.waiting import wait_until


class Supervisor:
    """One supervisord, which need not run yet."""

    def __init__(self, config: Path, socket: Path) -> None:
        self._config = config
        self._socket = socket
        self.client = SupervisordClient(socket)

    def is_running(self) -> bool:
        """Whether a supervisord answers on the socket."""
        if not self._socket.exists():
            return False
        try:
            # While it shuts down it answers nothing else.
            self.client.call("getState", ignore=("SHUTDOWN_STATE",))
        except Unavailable:
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
        pid = self.pid()
        self.client.call("shutdown", ignore=("SHUTDOWN_STATE",))
        wait_until(lambda: not psutil.pid_exists(pid), timeout_s=timeout_s, what="the processes to stop")

    def pid(self) -> int:
        """supervisord's own process id."""
        return int((self._config.parent / "supervisord.pid").read_text())

    def processes(self) -> list[dict[str, Any]]:
        """supervisord's process table: name, statename, pid, description, spawnerr, …"""
        return list(self.client.call("getAllProcessInfo"))

    def exit_code(self, name: str) -> int | None:
        """The exit code of a job that has ended for good; None while it runs or is being restarted."""
        info = self.client.call("getProcessInfo", name, ignore=("BAD_NAME",))
        return int(info["exitstatus"]) if info and info["statename"] in ENDED_STATES else None
