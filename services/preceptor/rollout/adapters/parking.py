"""Parked tasks in Redis: a list per run."""

import redis

from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.common.redis_client import redis_errors, sync_redis
from preceptor.common.redis_keys import parked_tasks

_TIMEOUT_S = 3.0
_KEPT_S = 24 * 3600


class ParkedTasks:
    """See `turnstile.Parking`. What is lost with Redis, or with a worker in between, the pump sends again."""

    def __init__(self, redis_url: str) -> None:
        self._redis: redis.Redis = sync_redis(redis_url, socket_timeout_s=_TIMEOUT_S)

    def park(self, task: rollout_pb2.CollectTask) -> None:
        key = parked_tasks(task.run_id)
        with redis_errors("parking a task"), self._redis.pipeline(transaction=True) as pipe:
            pipe.rpush(key, task.SerializeToString())
            pipe.expire(key, _KEPT_S)
            pipe.execute()

    def take(self, run_id: str) -> rollout_pb2.CollectTask | None:
        with redis_errors("taking a parked task"):
            data = self._redis.lpop(parked_tasks(run_id))
        return None if data is None else rollout_pb2.CollectTask.FromString(data)  # type: ignore[arg-type]
