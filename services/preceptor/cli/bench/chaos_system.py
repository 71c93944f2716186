"""The system that a chaos run torments: an rl run on every real part, each process in a place of its own."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from preceptor.api.learner.v1 import learner_service_pb2 as pb
from preceptor.cli.bench.chaos_world import Network
from preceptor.cli.bench.models import build_policy
from preceptor.cli.rl_run import DONE_CODES, JOB
from preceptor.cli.stack.layout import Layout, StackOptions
from preceptor.cli.stack.stack import Stack
from preceptor.clients.learner import LearnerClient
from preceptor.common.embedded_redis import redis_config
from preceptor.common.errors import DeadlineExceeded, PreceptorError
from preceptor.common.supervisord import Program, config_text
from preceptor.common.waiting import wait_until

RUN_ID = "chaos"
GROUP_SIZE = 4
_BATCH_SIZE = 16
_START_TIMEOUT_S = 300.0
_END_TIMEOUT_S = 180.0
_REWARD = '''\
def even_words(*, completions, **_):
    """The share of words with an even number."""
    return [sum(word[-1] in "02468" for word in text.split()) / max(1, len(text.split())) for text in completions]
'''


class TormentedRun:
    """An rl run of a small random policy under supervisord. Everything it writes lies in `folder`."""

    def __init__(self, folder: Path, network: Network, *, generators: int, workers: int) -> None:
        scale = {"generation": generators, "rollout": workers}
        options = StackOptions(policy=RUN_ID, scale=scale, with_console=False, with_feedback=False)
        self.layout = Layout((folder / "home").resolve(), options)
        self.stack = Stack(self.layout)
        self.run_folder = self.layout.artifacts_dir / "runs" / RUN_ID
        self._folder = folder
        self._network = network
        self._programs = [program.name for program in self.stack.factory.all()]
        for name in self.victims:
            network.add(name)

    @property
    def victims(self) -> list[str]:
        """The names of all processes."""
        return [*self._programs, JOB]

    def start(self) -> None:
        """Returns once the run trains and every process is ready."""
        layout = self.layout
        for folder in (layout.jobs_dir, layout.logs_dir, layout.redis_dir, layout.artifacts_dir):
            folder.mkdir(parents=True, exist_ok=True)
        config = redis_config(layout.redis_dir, layout.redis_port, self._network.address("redis"))
        (layout.redis_dir / "redis.conf").write_text(config)
        programs = [self._placed(program) for program in self.stack.factory.all()]
        text = config_text(
            directory=layout.supervisor_dir,
            socket=layout.supervisor_socket,
            logs_dir=layout.logs_dir,
            programs=programs,
        )
        layout.supervisor_config.write_text(text)
        self.stack.supervisor.start()
        argv = (sys.executable, "-m", "preceptor.learner", str(self._write_job()))
        env = self.stack.factory.learner_env(all_cores=False)
        self.stack.run_job(self._placed(Program(JOB, argv, env, start_seconds=0, done_codes=DONE_CODES)))
        self._wait(lambda: all(self.is_ready(name) for name in self.victims), _START_TIMEOUT_S, "every process")

    def is_ready(self, name: str) -> bool:
        """Whether it does its work: /readyz, of the learner that it trains, of Redis that it runs."""
        if name == JOB:
            status = self._learner_status()
            return status is not None and status.state == pb.RUN_STATE_RUNNING
        if name == "redis":
            return self.pid(name) != 0
        url = f"http://{self._network.address(name)}:{self.stack.metrics_ports()[name]}/readyz"
        try:
            with urllib.request.urlopen(url, timeout=2.0) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def pid(self, name: str) -> int:
        """0 while it does not run."""
        rows = {row["name"]: row["pid"] for row in self.stack.supervisor.processes()}
        return int(rows.get(name, 0))

    def family(self, name: str) -> list[psutil.Process]:
        """The process and its children, theirs too."""
        try:
            first = psutil.Process(self.pid(name))
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def finish(self) -> int:
        """Asks the learner to end the run; its exit code. DeadlineExceeded with the logs' ends when it does not end."""
        ended: dict[str, int] = {}

        def asked() -> bool:
            with LearnerClient(self._learner_address) as client:
                try:
                    client.stop(pb.StopRequest(reason="the chaos run is over"), timeout_s=10)
                except PreceptorError:
                    return self.stack.supervisor.exit_code(JOB) is not None
            return True

        def over() -> bool:
            code = self.stack.supervisor.exit_code(JOB)
            if code is not None:
                ended["code"] = code
            return code is not None

        self._wait(asked, _END_TIMEOUT_S, "the learner to take the request to stop")
        self._wait(over, _END_TIMEOUT_S, "the run to end")
        return ended["code"]

    def down(self) -> None:
        """Takes everything down, whatever state it is in."""
        self.stack.down()

    def summary(self) -> dict[str, Any]:
        """summary.json of the run."""
        loaded: dict[str, Any] = json.loads((self.run_folder / "summary.json").read_text())
        return loaded

    def explain(self) -> str:
        """The end of every log."""
        names = sorted(path.stem for path in self.layout.logs_dir.glob("*.log"))
        return "\n".join(f"--- {name}\n{self.stack.log_tail(name, 25)}" for name in names)

    def _wait(self, predicate: Any, timeout_s: float, what: str) -> None:
        try:
            wait_until(predicate, timeout_s, what, interval_s=0.2)
        except DeadlineExceeded as error:
            raise DeadlineExceeded(f"{error.message}\n{self.explain()}") from error

    @property
    def _learner_address(self) -> str:
        return f"{self._network.address(JOB)}:{self.layout.port(7140)}"

    def _learner_status(self) -> pb.GetStatusResponse | None:
        with LearnerClient(self._learner_address) as client:
            try:
                return client.status(pb.GetStatusRequest(), timeout_s=2.0)
            except PreceptorError:
                return None

    def _placed(self, program: Program) -> Program:
        """The program in its place, told where the others are."""
        env = {key: self._value(program.name, key, value) for key, value in program.env.items()}
        return replace(program, argv=(*self._network.inside(program.name), *program.argv), env=env)

    def _value(self, name: str, key: str, value: str) -> str:
        address = self._network.address
        if key.endswith("_HOST"):
            return address(name)
        if key.endswith("_REDIS_URL"):
            return value.replace(self.layout.options.host, address("redis"))
        if key.endswith("_REWARD_ADDRESS"):
            return value.replace(self.layout.options.host, address("reward"))
        if key.endswith("_THREADS"):
            return "1"  # threads that wait for one another on busy cores would be what is measured
        if key.endswith("_CPU_CORES"):
            return ""
        return value

    def _write_job(self) -> Path:
        build_policy(self._folder / "policy", hidden=64, layers=2)
        (self._folder / "reward.py").write_text(_REWARD)
        path = self._folder / "rl.yaml"
        path.write_text(yaml.safe_dump(job_config(self._folder)))
        return path


def job_config(folder: Path) -> Mapping[str, Any]:
    """A run whose step takes a fraction of a second and which ends when it is told to."""
    return {
        "kind": "rl",
        "run_id": RUN_ID,
        "seed": 0,
        "model": str(folder / "policy"),
        "prompts": {"items": [f"w{index} w{index + 1} w{index + 2}" for index in range(16)]},
        "reward": {"function": f"{folder / 'reward.py'}:even_words"},
        "batch_size": _BATCH_SIZE,
        "group_size": GROUP_SIZE,
        "total_steps": 10_000_000,
        "max_staleness": 2,
        "sampling": {"temperature": 1.0, "max_tokens": 24},
        "attempt_deadline_s": 15.0,
        "max_attempts": 50,
        "retry_backoff_s": 0.2,
        "checkpoint": {"every_steps": 10, "keep": 2},
        "publish": {"transports": ["grpc"]},  # over the links that are cut
        "ppo": {"epochs": 1, "minibatches": 2, "optimizer": {"learning_rate": 1e-4}},
    }
