"""A whole rl system for tests: real Redis, rollout worker, reward server and learner; the generator is the double."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from preceptor.common.waiting import wait_until
from tests.support.ports import free_port
from tests.support.processes import REPOSITORY, ServiceProcess
from tests.support.redis import RedisProcess

REWARD_FUNCTION = f"{REPOSITORY / 'tests/integration/learner/rewards.py'}:few_es"


class World:
    """Everything around the learner; runs share it."""

    def __init__(self, folder: Path, redis: RedisProcess, run_ids: Sequence[str], *, vllm: bool = False) -> None:
        self.folder = folder
        self.redis = redis
        self.artifacts = folder / "artifacts"
        self.artifacts.mkdir(parents=True, exist_ok=True)
        self.reward_address = f"127.0.0.1:{free_port()}"
        reward_port = int(self.reward_address.rpartition(":")[2])
        self.reward = self.service("reward", port=reward_port)
        self.rollout = self.service(
            "rollout", module="preceptor.rollout.worker", reward_address=self.reward_address, concurrency=8
        )
        self.generator = self._vllm(run_ids[0]) if vllm else self._double(run_ids)

    def _double(self, run_ids: Sequence[str]) -> ServiceProcess:
        module = "tests.integration.learner.hf_generator"
        return self.service("hfgen", module=module, run_ids=",".join(run_ids), instance="hf", port=0)

    def _vllm(self, run_id: str) -> ServiceProcess:
        return self.service("generation", run_id=run_id, port=free_port(), max_num_seqs=32, watch_interval_s=0.1)

    def service(self, name: str, *, module: str = "", args: Sequence[str] = (), **settings: Any) -> ServiceProcess:
        """A process with this world's addresses, not started."""
        metrics_port = free_port()
        shared = {
            "redis_url": self.redis.url,
            "artifacts_url": self.artifacts.as_uri(),
            "metrics_port": metrics_port,
            "threads": 1,
            "log_format": "text",
        }
        env = {f"PRECEPTOR_{name}_{key}".upper(): str(value) for key, value in {**shared, **settings}.items()}
        return ServiceProcess(module or f"preceptor.{name}", env, self.folder, metrics_port=metrics_port, args=args)

    def logs(self) -> str:
        return "\n".join(process.log_tail() for process in (self.reward, self.rollout, self.generator))


@dataclass
class Run:
    """One run in a world: its config, its learner processes, what it left behind."""

    world: World
    run_id: str
    model: Path

    def __post_init__(self) -> None:
        self.port = free_port()

    @property
    def folder(self) -> Path:
        return self.world.artifacts / "runs" / self.run_id

    def config(self, **changes: Any) -> Path:
        """Writes the run's YAML."""
        values: dict[str, Any] = {
            "kind": "rl",
            "run_id": self.run_id,
            "seed": 3,
            "threads": 1,
            "model": str(self.model),
            "reward": {"function": REWARD_FUNCTION},
            "prompts": {"items": ["the quick", "thank you", "a good", "the warm", "and the", "a short"]},
            "batch_size": 8,
            "group_size": 2,
            "total_steps": 6,
            "max_staleness": 1,
            "sampling": {"max_tokens": 12},
            "attempt_deadline_s": 15,
            "checkpoint": {"every_steps": 4, "keep": 2},
            "publish": {"keep_versions": 1000},
            "ppo": {"epochs": 1, "optimizer": {"learning_rate": 1e-3}, "critic_optimizer": {"learning_rate": 1e-3}},
        }
        path = self.world.folder / f"{self.run_id}.yaml"
        path.write_text(yaml.safe_dump({**values, **changes}))
        return path

    def learner(self, config: Path, ranks: int = 1) -> ServiceProcess:
        """A learner process (with several ranks, their launcher), not started."""
        args = [str(config), "--nproc", str(ranks)]
        return self.world.service("learner", port=self.port, reward_address=self.world.reward_address, args=args)

    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    def metrics(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def steps(self) -> list[int]:
        return [row["step"] for row in self.metrics()]

    def wait_for_step(self, step: int, learner: ServiceProcess, timeout_s: float = 60) -> None:
        """Returns once a line of that step is written."""

        def reached() -> bool:
            assert learner.running, learner.log_tail()
            return step in self.steps()

        try:
            wait_until(reached, timeout_s, f"step {step}", interval_s=0.01)
        except Exception as error:
            raise AssertionError(f"{error}\n{learner.log_tail()}\n{self.world.logs()}") from error

    def finish(self, learner: ServiceProcess, timeout_s: float = 90) -> dict[str, Any]:
        """Waits for exit code 0; returns the summary."""
        code = learner.wait(timeout_s)
        assert code == 0, f"{learner.log_tail()}\n{self.world.logs()}"
        return self.summary()

    def digests(self) -> dict[int, str]:
        """Content digest by policy version in the store."""
        manifests = sorted((self.folder / "policy").glob("*/manifest.json"))
        return {int(path.parent.name): json.loads(path.read_text())["contentDigest"] for path in manifests}


def assert_closed(summary: dict[str, Any]) -> None:
    """The accounting's identities, with nothing in flight."""
    groups, attempts = dict(summary["groups"]), dict(summary["attempts"])
    assert groups["in_flight"] == attempts["in_flight"] == 0
    assert groups.pop("issued") == sum(groups.values())
    assert attempts.pop("sent") == sum(attempts.values())


@contextmanager
def running_world(folder: Path, run_ids: Sequence[str], *, vllm: bool = False) -> Iterator[World]:
    """Starts everything but the learner and stops it in the end. vllm: with the real generator, of the first run."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisProcess(folder / "redis"))
        world = World(folder, redis, run_ids, vllm=vllm)
        services = [world.reward, world.rollout, world.generator]
        for service in services:
            stack.enter_context(service)
        for service in services[:2] if vllm else services:  # the real one is ready once the run has published
            service.wait_ready()
        yield world
