"""What both halves of `preceptor bench pipeline` stand on: Redis, a reward server and rollout workers, all real."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from preceptor.cli.bench import pipeline_scoring
from preceptor.cli.bench.processes import BenchProcess, ServiceProcess
from preceptor.cli.bench.redis_server import redis_server

START_TIMEOUT_S = 300.0
SCORING = f"{pipeline_scoring.__name__}:{pipeline_scoring.distinct_characters.__name__}"


@dataclass(frozen=True, slots=True)
class LightParts:
    """Addresses and processes."""

    redis_url: str
    reward_address: str
    workers: Sequence[BenchProcess]

    def cpu_s(self) -> dict[str, float]:
        """Seconds of CPU that the workers and Redis have used so far."""
        return {"rollout": sum(cpu_of(worker.process.pid) for worker in self.workers), "redis": self._redis_cpu_s()}

    def _redis_cpu_s(self) -> float:
        import redis

        with redis.Redis.from_url(self.redis_url) as client:
            used: Any = client.info("cpu")
        return float(used["used_cpu_sys"] + used["used_cpu_user"])


def start_light_parts(folder: Path, stack: ExitStack, *, workers: int, concurrency: int) -> LightParts:
    """Starts them and waits until they are ready; they end with the stack.

    Args:
        folder: for data and logs.
        stack: closes what is started.
        workers: rollout worker processes.
        concurrency: groups that each collects at a time.
    """
    redis_url = stack.enter_context(redis_server(folder)) + "/0"
    common = {"redis_url": redis_url, "threads": 1, "log_level": "WARNING"}
    named = {"models": f"bench={SCORING}", "function_threads": 1}
    reward = stack.enter_context(ServiceProcess("reward", folder, {**common, **named}))
    settings = {**common, "reward_address": reward.address, "concurrency": concurrency}
    started = [
        stack.enter_context(ServiceProcess("rollout.worker", folder, {**settings, "instance": f"rollout-{index}"}))
        for index in range(workers)
    ]
    for process in (reward, *started):
        process.wait_ready(START_TIMEOUT_S)
    return LightParts(redis_url, reward.address, started)


def write_config(path: Path, config: dict[str, Any]) -> Path:
    """Writes a run's YAML."""
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def cpu_of(pid: int) -> float:
    """Seconds of CPU of a process and of its living and ended children."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
