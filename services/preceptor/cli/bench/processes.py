"""The processes of a bench: real services on free ports, and peers that answer line by line."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from preceptor.common.errors import DeadlineExceeded, FailedPrecondition
from preceptor.common.process import kill_group
from preceptor.common.waiting import wait_until

_LOG_TAIL_CHARACTERS = 2000
_STOP_TIMEOUT_S = 60.0


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class BenchProcess:
    """One `python -m <module>` in a process group of its own, that ends with the bench. Use as a context manager.

    Args:
        module: what to run.
        env: variables on top of this process's.
        log_path: takes standard error, and standard output unless `answers`.
        answers: whether standard input and output are pipes.
        arguments: of the command line.
    """

    def __init__(
        self,
        module: str,
        env: Mapping[str, str],
        log_path: Path,
        *,
        answers: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        self.module = module
        self.log_path = log_path
        pipe = subprocess.PIPE if answers else None
        with log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*leash(), sys.executable, "-m", module, *arguments],
                env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or log,
                stderr=log,
                start_new_session=True,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """SIGTERM; whatever of the group is left after a minute is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                kill_group(self.process.pid)
                self.process.wait()
        kill_group(self.process.pid)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Nothing of the group runs within the block: an idle engine's worker still polls, on cores that the other
        side is measured on."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)

    def check_alive(self) -> None:
        """Returns when it runs. FailedPrecondition with the end of its log when it has ended."""
        if (code := self.process.poll()) is not None:
            tail = self.log_path.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:].strip()
            raise FailedPrecondition(f"{self.module} ended with {code}:\n{tail}", reason="PROCESS_ENDED")


class ServiceProcess(BenchProcess):
    """A Preceptor service on free ports.

    Args:
        service: e.g. "reward" for `python -m preceptor.reward`, "rollout.worker" for a worker.
        folder: for its log.
        settings: fields of its settings class; ports are added, and a Redis address where none answers, which costs
            discovery alone.
    """

    def __init__(self, service: str, folder: Path, settings: Mapping[str, object]) -> None:
        port, self.metrics_port = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        given = {
            **({} if service.endswith(".worker") else {"port": port}),
            "metrics_port": self.metrics_port,
            "redis_url": f"redis://127.0.0.1:{free_port()}/0",
            "artifacts_url": folder.as_uri(),
            **settings,
        }
        log_path = folder / f"{service}-{port}.log"
        super().__init__(f"preceptor.{service}", service_env(service.partition(".")[0], given), log_path)

    def wait_ready(self, timeout_s: float) -> Self:
        """Returns itself once /readyz answers 200. FailedPrecondition when it ended, DeadlineExceeded when late."""
        wait_until(self._ready, timeout_s, f"{self.module} to be ready", interval_s=0.2)
        return self

    def _ready(self) -> bool:
        self.check_alive()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.HTTPError, OSError):
            return False


class Peer(BenchProcess):
    """A process that takes one JSON object per line and answers each with one; its first line says that it is ready."""

    def __init__(self, module: str, env: Mapping[str, str], log_path: Path, *, arguments: Sequence[str] = ()) -> None:
        super().__init__(module, env, log_path, answers=True, arguments=arguments)
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_ready(self, timeout_s: float) -> Self:
        """Returns itself after the first line."""
        self._answer(timeout_s)
        return self

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> Any:
        """The answer to one request. FailedPrecondition when the peer ended, DeadlineExceeded when it is late."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.process.wait(_STOP_TIMEOUT_S)
            self.check_alive()
        return self._answer(timeout_s)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _answer(self, timeout_s: float) -> Any:
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty as error:
            raise DeadlineExceeded(f"{self.module} gave no answer in {timeout_s:g} s") from error
        if not line:
            self.process.wait(_STOP_TIMEOUT_S)
            self.check_alive()
        return json.loads(line)


def service_env(service: str, settings: Mapping[str, object]) -> dict[str, str]:
    """Settings as the environment variables of a service."""
    return {f"PRECEPTOR_{service.upper()}_{name.upper()}": str(value) for name, value in settings.items()}


class Answering:
    """The peer's side. What libraries print goes to standard error from now on, so that standard output carries answers
    alone: make it before anything else."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)

    def requests(self) -> Iterator[Any]:
        """Says that the peer is ready, then yields requests until standard input ends. Answer each with `reply`."""
        self.reply({"ready": True})
        for line in sys.stdin:
            yield json.loads(line)

    def reply(self, value: Any) -> None:
        """One answer."""
        self._answers.write(json.dumps(value) + "\n")


def leash() -> tuple[str, ...]:
    """The prefix that ends a process when the bench dies, a stopped one too; empty where util-linux is absent."""
    path = shutil.which("setpriv")
    return (path, "--pdeathsig", "KILL", "--") if path else ()
