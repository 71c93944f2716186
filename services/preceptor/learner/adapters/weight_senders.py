"""Processes beside the learner that send weights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from preceptor.common.telemetry import get_logger
from preceptor.learner.config import LearnerSettings

log = get_logger(__name__)
_MODULE = "preceptor.learner.weight_sender"
_STOP_TIMEOUT_S = 10.0


class WeightSenders:
    """So many processes that serve a run's stored versions. They end with this process, however it ends.

    Args:
        settings: of this process.
        run_id: whose versions.
        count: of processes; 0 = none.
    """

    def __init__(self, settings: LearnerSettings, run_id: str, count: int) -> None:
        self._settings = settings
        self._run_id = run_id
        self._processes: list[tuple[subprocess.Popen[bytes], str] | None] = [None] * count

    def addresses(self) -> Sequence[str]:
        """Where they are reached. Those that have ended are started again."""
        for index, running in enumerate(self._processes):
            if running is None or running[0].poll() is not None:
                self._processes[index] = self._start(index)
        return [running[1] for running in self._processes if running is not None]

    def close(self) -> None:
        """Ends them."""
        for index, running in enumerate(self._processes):
            if running is not None:
                _end(running[0])
            self._processes[index] = None

    def _start(self, index: int) -> tuple[subprocess.Popen[bytes], str] | None:
        settings = self._settings
        port = settings.weight_sender_port + index if settings.weight_sender_port else 0
        given = {**settings.model_dump(mode="json"), "port": port, "metrics_port": 0, "cpu_cores": ""}
        env = {settings.variable(name): str(value) for name, value in given.items() if value is not None}
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, self._run_id],
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.strip().isdigit():
            log.warning("a sender of weights does not start: the learner sends itself", code=process.wait())
            _end(process)
            return None
        host = settings.advertise_address.rpartition(":")[0] or settings.host
        return process, f"{host}:{int(line)}"


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
