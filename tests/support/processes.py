"""Real service processes for tests."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from preceptor.common.process import kill_group
from preceptor.common.waiting import wait_until
from tests.support.ports import free_port

REPOSITORY = Path(__file__).parents[2]
_LOG_TAIL_CHARACTERS = 4000


class ServiceProcess:
    """One `python -m <module>` in a process group of its own.

    Use as a context manager: on leaving it is stopped, and no process of its group or session may be left.

    Args:
        module: e.g. "preceptor.reward" or "preceptor.rollout.worker".
        env: variables on top of this process's, e.g. {"PRECEPTOR_REWARD_PORT": "7110"}.
        folder: where the log goes.
        metrics_port: for `wait_ready`; None when the process has no probe port.
        args: command-line arguments.
    """

    def __init__(
        self,
        module: str,
        env: Mapping[str, str],
        folder: Path,
        *,
        metrics_port: int | None = None,
        args: Sequence[str] = (),
    ) -> None:
        self.module = module
        self.metrics_port = metrics_port
        self._command = [sys.executable, "-m", module, *args]
        self.env = dict(env)
        self.log_path = folder / f"{module}-{free_port()}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.module} was not started"
        return self._process.pid

    def start(self) -> "ServiceProcess":
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.env},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def wait_ready(self, timeout_s: float = 60) -> "ServiceProcess":
        """Returns once /readyz answers 200; fails with the end of the log when the process ends or is late."""
        try:
            wait_until(self._ready, timeout_s, f"{self.module} to be ready")
        except Exception as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from error
        return self

    def http(self, path: str) -> tuple[int, str]:
        """Returns status and body of a page of the metrics port; (0, "") while nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait(self, timeout_s: float = 60) -> int:
        """Returns the exit code."""
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{self.module} did not end in {timeout_s} s\n{self.log_tail()}") from error

    def terminate(self, timeout_s: float = 60) -> int:
        """SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL of the one process (not its group), as a crash would."""
        self.signal(signal.SIGKILL)
        self.wait(10)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self) -> str:
        return f"--- end of {self.module}'s log ---\n{self.log()[-_LOG_TAIL_CHARACTERS:]}"

    def family(self) -> list[psutil.Process]:
        """Returns the live processes of this one's group or session, itself included."""
        return [process for process in psutil.process_iter() if self._is_family(process)]

    def assert_no_orphans(self, timeout_s: float = 10) -> None:
        """Fails, and kills them, when processes outlive the service."""
        try:
            wait_until(lambda: not self.family(), timeout_s, f"the children of {self.module} to end")
        except Exception as error:
            left = [" ".join(process.cmdline()) for process in self.family()]
            kill_group(self.pid)
            raise AssertionError(f"{error}; left: {left}\n{self.log_tail()}") from error

    def __enter__(self) -> "ServiceProcess":
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.signal(signal.SIGTERM)
            try:
                self.wait(30)
            except AssertionError:
                kill_group(self.pid)
                raise
        self.assert_no_orphans()

    def _ready(self) -> bool:
        if not self.running:
            raise AssertionError(f"{self.module} ended with {self.wait()} before it was ready")
        return self.http("/readyz")[0] == 200

    def _is_family(self, process: psutil.Process) -> bool:
        try:
            ours = self.pid in (os.getpgid(process.pid), os.getsid(process.pid))
            return ours and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False
