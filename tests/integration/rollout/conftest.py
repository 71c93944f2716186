"""A rollout worker, a reward server and a Redis of the test's own, as real processes."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import celery
import pytest
import redis

from preceptor.api.common.v1 import text_pb2
from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.clients.queues import QUEUE_ROLLOUT, send_collect
from preceptor.common.celery_app import make_celery
from preceptor.common.redis_keys import ROLLOUT_FIELD, rollout_stream
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess
from tests.support.redis import RedisProcess
from tests.support.waiting import wait_until

RUN = "test-run"
_FUNCTIONS = """
import time

def length(completions):
    return [float(len(text)) for text in completions]

def not_a_number(completions):
    return [1.0] + [float("nan")] * (len(completions) - 1)

def raises(completions):
    raise ValueError("the judge is asleep")

def slow(completions):
    time.sleep(0.5)
    return [2.0] * len(completions)
"""


@dataclass
class Stack:
    """What the pump and the learner see of a rollout worker: a queue and a stream."""

    redis_process: RedisProcess
    reward: ServiceProcess
    worker: ServiceProcess
    app: celery.Celery
    client: redis.Redis

    def send(
        self, index: int, *, run_id: str = RUN, attempt: int = 1, deadline_s: float = 60.0, **fields: object
    ) -> None:
        """Sends one group of four completions."""
        task = rollout_pb2.CollectTask(
            run_id=run_id,
            group_id=f"{run_id}/{index}",
            attempt=attempt,
            issue_index=index,
            prompt_id=f"prompt-{index}",
            prompt=text_pb2.Prompt(text=f"prompt {index}"),
            n=4,
            sampling=text_pb2.SamplingParameters(max_tokens=8, temperature=1.0),
            min_policy_version=3,
            reward_model="length",
        )
        task.MergeFrom(rollout_pb2.CollectTask(**fields))  # type: ignore[arg-type]
        task.deadline.FromNanoseconds(round((time.time() + deadline_s) * 1e9))
        send_collect(self.app, task, expires=3600.0)

    def groups(self, run_id: str = RUN) -> list[rollout_pb2.RolloutGroup]:
        """All of a run that was ever appended, in stream order."""
        entries = self.client.xrange(rollout_stream(run_id))
        return [rollout_pb2.RolloutGroup.FromString(fields[ROLLOUT_FIELD]) for _, fields in entries]

    def wait_for(self, count: int, timeout_s: float = 60.0) -> list[rollout_pb2.RolloutGroup]:
        """The groups, once the stream holds those of `count` different ids."""
        try:
            wait_until(lambda: len({group.group_id for group in self._safely()}) >= count, timeout_s, f"{count} groups")
        except Exception as error:
            raise AssertionError(f"{error}\n{self.worker.log_tail()}\n{self.reward.log_tail()}") from error
        return self.groups()

    def one(self, timeout_s: float = 60.0) -> rollout_pb2.RolloutGroup:
        """The one group that was sent."""
        (group,) = self.wait_for(1, timeout_s)
        return group

    def _safely(self) -> list[rollout_pb2.RolloutGroup]:
        try:
            return self.groups()
        except redis.ConnectionError:
            return []


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    functions = tmp_path / "functions.py"
    functions.write_text(_FUNCTIONS)
    with RedisProcess(tmp_path / "redis") as redis_process:
        reward_port = free_port()
        common = {"ARTIFACTS_URL": (tmp_path / "artifacts").as_uri(), "REDIS_URL": redis_process.url, "THREADS": "1"}
        names = ("length", "not_a_number", "raises", "slow")
        reward = _service(
            "preceptor.reward",
            "PRECEPTOR_REWARD_",
            common
            | {
                "PORT": str(reward_port),
                "MODELS": ",".join(f"{name.replace('_', '-')}={functions}:{name}" for name in names),
            },
            tmp_path,
        )
        worker = _service(
            "preceptor.rollout.worker",
            "PRECEPTOR_ROLLOUT_",
            common
            | {
                "REWARD_ADDRESS": f"127.0.0.1:{reward_port}",
                "CONCURRENCY": "8",
                "DISCOVERY_REFRESH_S": "0.2",
                "INSTANCE": "rollout-0",
                "DRAIN_TIMEOUT_S": "8",
            },
            tmp_path,
        )
        with reward, worker:
            reward.wait_ready()
            worker.wait_ready()
            app = make_celery("test", redis_process.url, QUEUE_ROLLOUT)
            yield Stack(redis_process, reward, worker, app, redis.Redis.from_url(redis_process.url))


def _service(module: str, prefix: str, settings: dict[str, str], folder: Path) -> ServiceProcess:
    metrics_port = free_port()
    env = {f"{prefix}{name}": value for name, value in (settings | {"METRICS_PORT": str(metrics_port)}).items()}
    return ServiceProcess(module, env, folder, metrics_port=metrics_port)
