"""A small rl run through the whole embedded system, for tests that look at it from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from preceptor.api.learner.v1 import learner_service_pb2 as pb
from preceptor.cli.stack.layout import load_layout
from preceptor.cli.stack.stack import Stack
from preceptor.clients.learner import LearnerClient
from preceptor.common.errors import DeadlineExceeded, PreceptorError
from preceptor.common.waiting import wait_until
from tests.support.models import build_policy

RUN_ID = "chaos"
REWARD = '''
def plain_letters(*, prompts, completions, **_):
    """The share of lower-case ASCII letters in a completion."""
    return [sum("a" <= c <= "z" for c in text) / max(1, len(text)) for text in completions]
'''


class RlSystem:
    """`preceptor train rl` in a process of its own, and a view of what it started.

    Args:
        folder: everything is written below it.
        port_base: added to the default ports.
        changes: fields that override the small default config.
    """

    def __init__(self, folder: Path, port_base: int, **changes: Any) -> None:
        self.folder = folder
        self.home = (folder / "home").resolve()
        self.config = folder / "rl.yaml"
        self.log = folder / "train.log"
        self._port_base = port_base
        self._process: subprocess.Popen[bytes] | None = None
        build_policy(folder / "policy")
        (folder / "reward.py").write_text(REWARD)
        self.config.write_text(yaml.safe_dump(default_config(folder) | changes))

    def start(self, *args: str) -> None:
        command = [sys.executable, "-m", "preceptor.cli", "train", "rl", str(self.config), "--home", str(self.home)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port-base", str(self._port_base), *args], stdout=log, stderr=log, start_new_session=True
            )

    @property
    def stack(self) -> Stack:
        layout = load_layout(self.home)
        assert layout is not None, self.explain("the system never started")
        return Stack(layout)

    def status(self) -> pb.GetStatusResponse | None:
        """The learner's status; None while it does not answer."""
        with LearnerClient(f"127.0.0.1:{7140 + self._port_base}") as client:
            try:
                return client.status(pb.GetStatusRequest(), timeout_s=2.0)
            except PreceptorError:
                return None

    def step(self) -> int:
        status = self.status()
        return status.step if status else -1

    def wait_step(self, step: int, timeout_s: float = 120) -> None:
        self.wait(lambda: self.step() >= step, timeout_s, f"step {step}")

    def wait(self, predicate: Callable[[], Any], timeout_s: float, what: str) -> None:
        """As `wait_until`, failing early with the logs when the run ends."""
        try:
            wait_until(lambda: predicate() or not self.running, timeout_s, what, interval_s=0.2)
        except DeadlineExceeded as error:
            raise AssertionError(self.explain(str(error))) from error
        assert self.running or predicate(), self.explain(f"the run ended before {what}")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop_run(self) -> None:
        """Ends the run after the current step."""
        with LearnerClient(f"127.0.0.1:{7140 + self._port_base}") as client:
            client.stop(pb.StopRequest(reason="the test has seen enough"), timeout_s=120)

    def signal(self, number: int) -> None:
        """Sends `preceptor train rl` itself a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def join(self, timeout_s: float = 120) -> int:
        """The exit code of `preceptor train rl`."""
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(self.explain("the run did not end")) from error

    def kill(self, name: str) -> None:
        """SIGKILL of one supervised process; returns when another has taken its place."""
        before = self.pid(name)
        os.kill(before, signal.SIGKILL)
        self.wait(lambda: self.pid(name) not in (0, before), 60, f"{name} to be started again")

    def pid(self, name: str) -> int:
        return next((row["pid"] for row in self.stack.supervisor.processes() if row["name"] == name), 0)

    def summary(self) -> dict[str, Any]:
        path = self.home / "artifacts" / "runs" / RUN_ID / "summary.json"
        assert path.is_file(), self.explain("no summary.json")
        loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded

    def history(self) -> list[dict[str, Any]]:
        path = self.home / "artifacts" / "runs" / RUN_ID / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def end(self) -> None:
        """Takes everything down, whatever state it is in."""
        if self.running and self._process is not None:
            os.killpg(self._process.pid, signal.SIGINT)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        if load_layout(self.home) is not None:
            self.stack.down()

    def explain(self, problem: str) -> str:
        """The problem with the end of every log."""
        parts = [problem, self.log.read_text()[-1500:] if self.log.exists() else ""]
        logs = sorted((self.home / "logs").glob("*.log"))
        parts += [f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in logs]
        return "\n".join(parts)


def left_over(home: Path) -> list[str]:
    """Command lines of live processes that carry a home in their environment or arguments."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            text = " ".join([*process.cmdline(), *process.environ().values()])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if str(home) in text:
            found.append(" ".join(process.cmdline()))
    return found


def default_config(folder: Path) -> dict[str, Any]:
    """A run of a 0.15 M-parameter policy against a reward function: a step takes well under a second."""
    return {
        "kind": "rl",
        "run_id": RUN_ID,
        "seed": 0,
        "model": "policy",
        "prompts": {"items": ["the quick", "thank you", "a good reply", "a bad", "the small cat", "your kind"]},
        "reward": {"function": f"{folder / 'reward.py'}:plain_letters"},
        "batch_size": 16,
        "group_size": 4,
        "total_steps": 100_000,
        "max_staleness": 1,
        "sampling": {"temperature": 1.0, "max_tokens": 24},
        "attempt_deadline_s": 15.0,
        "max_attempts": 20,
        "checkpoint": {"every_steps": 3, "keep": 2},
        "ppo": {"epochs": 1, "minibatches": 2, "optimizer": {"learning_rate": 1e-4}},
    }


def assert_accounting_closed(summary: dict[str, Any]) -> None:
    """DESIGN: issued = trained + abandoned + in flight, sent = the sum of its parts, nothing in flight at the end."""
    groups, attempts = summary["groups"], dict(summary["attempts"])
    assert groups["issued"] == groups["trained"] + groups["abandoned"] + groups["in_flight"]
    assert groups["in_flight"] == 0
    assert attempts.pop("sent") == sum(attempts.values())
    assert attempts["in_flight"] == 0
    assert groups["trained"] == attempts["trained"] > 0
