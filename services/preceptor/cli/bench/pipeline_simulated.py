"""Control cost: CPU seconds of pump, rollout workers and Redis per rollout, with simulated generators."""

from __future__ import annotations

import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preceptor.cli.bench.pipeline_parts import START_TIMEOUT_S, LightParts, start_light_parts, write_config
from preceptor.cli.bench.processes import Peer, service_env
from preceptor.common.waiting import wait_until

RUN = "bench-pipeline"
_GROUP = 4
_TOKENS = 64
_SEQUENCES = 8  # that one generator writes at the same time
_ANSWER_TIMEOUT_S = 30.0
_BATCH_SHARE = 4  # of what all generators write at the same time, a batch is one in so many
_WARM_STEPS = 8
_WARM_TIMEOUT_S = 120.0
_GENERATORS_PER_WORKER = 25
_MODULE = "preceptor.cli.bench"


@dataclass(frozen=True, slots=True)
class ControlCost:
    """What one size of system used while it was watched. Seconds of CPU by part."""

    generators: int
    seconds: float
    rollouts: float
    failed: float
    cpu_s: dict[str, float]

    @property
    def per_rollout_ms(self) -> float:
        return 1e3 * sum(self.cpu_s.values()) / self.rollouts

    def part_ms(self, part: str) -> float:
        """Of one rollout."""
        return 1e3 * self.cpu_s[part] / self.rollouts

    @property
    def rate(self) -> float:
        """Rollouts per second."""
        return self.rollouts / self.seconds


def measure_control_cost(generators: int, seconds: float, token_s: float) -> ControlCost:
    """Runs a system of so many simulated generators, each as busy as it can be, and watches it for a while.

    A rollout worker for every 25 generators; twice as many rollouts are on their way as generators write at a time.
    """
    with tempfile.TemporaryDirectory(prefix="preceptor-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        workers = -(-generators // _GENERATORS_PER_WORKER)
        in_flight = 2 * generators * _SEQUENCES // _GROUP
        light = start_light_parts(folder, stack, workers=workers, concurrency=-(-in_flight // workers))
        learner = _start(folder, stack, light, generators, token_s)
        wait_until(lambda: _ask(learner)["steps"] >= _WARM_STEPS, _WARM_TIMEOUT_S, "the first steps", interval_s=0.5)
        before = _used(learner, light)
        threading.Event().wait(seconds)
        after = _used(learner, light)
    used = {name: after[name] - before[name] for name in after}
    rollouts, failed = used.pop("rollouts"), used.pop("failed")
    return ControlCost(generators, used.pop("at"), rollouts, failed, used)


def _start(folder: Path, stack: ExitStack, light: LightParts, generators: int, token_s: float) -> Peer:
    common = {"redis_url": light.redis_url, "artifacts_url": folder.as_uri(), "log_level": "WARNING"}
    simulated = {**common, "run_id": RUN, "generators": generators, "max_num_seqs": _SEQUENCES, "token_s": token_s}
    env = service_env("simulated_generation", simulated)
    stand_in = Peer(f"{_MODULE}.simulated_generators", env, folder / "generators.log")
    stack.enter_context(stand_in).wait_ready(START_TIMEOUT_S)
    config = write_config(folder / "rl.yaml", run_config(folder, generators))
    env = service_env("learner", {**common, "port": 0, "metrics_port": 0, "reward_address": light.reward_address})
    learner = Peer(f"{_MODULE}.simulated_learner", env, folder / "learner.log", arguments=[str(config)])
    return stack.enter_context(learner).wait_ready(START_TIMEOUT_S)


def run_config(folder: Path, generators: int) -> dict[str, Any]:
    """The run that so many generators can keep up with."""
    return {
        "kind": "rl",
        "run_id": RUN,
        "model": str(folder),  # never opened
        "prompts": {"items": [f"prompt {index}: say something of no use" for index in range(64)]},
        "reward": {"name": "bench"},
        "batch_size": _GROUP * max(1, generators * _SEQUENCES // (_GROUP * _BATCH_SHARE)),
        "group_size": _GROUP,
        "total_steps": 1_000_000,
        "in_flight": "fixed",
        "max_staleness": 2 * _BATCH_SHARE - 1,
        "sampling": {"max_tokens": _TOKENS},
        "checkpoint": {"every_steps": 10},
    }


def _used(learner: Peer, light: LightParts) -> dict[str, float]:
    pump = _ask(learner)
    return {
        **light.cpu_s(),
        "pump": pump["cpu_s"],
        "rollouts": pump["rollouts"],
        "failed": pump["failed"],
        "at": pump["at"],
    }


def _ask(learner: Peer) -> Any:
    return learner.ask({}, _ANSWER_TIMEOUT_S)
