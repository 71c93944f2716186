"""The experience stream in Redis, and the feedback queue."""

from collections.abc import Callable

import celery
import redis

from preceptor.clients.queues import send_offer_group
from preceptor.common.errors import Unavailable
from preceptor.common.redis_client import redis_errors, sync_redis
from preceptor.common.redis_keys import ROLLOUT_FIELD, rollout_stream
from preceptor.common.telemetry import get_logger
from preceptor.rollout.converters import group_to_proto
from preceptor.rollout.retry import Retrier, RetryPolicy
from preceptor.rollout.types import Deadline, Group

log = get_logger(__name__)
_XADD_TIMEOUT_S = 5.0


class ExperienceStream:
    """Appends groups, across restarts of Redis. The same group may be appended twice when a reply is lost: consumers
    tell by (group_id, attempt)."""

    def __init__(self, redis_url: str, pause: Callable[[float], bool]) -> None:
        self._redis: redis.Redis = sync_redis(redis_url, socket_timeout_s=_XADD_TIMEOUT_S)
        self._retrier = Retrier(RetryPolicy(initial_s=0.1, max_s=1.0), pause)

    def deliver(self, group: Group, deadline: Deadline) -> None:
        """See `types.Deliver`."""
        key, payload = rollout_stream(group.job.run_id), group_to_proto(group).SerializeToString()

        def append(_: float) -> None:
            try:
                self._append(key, payload)
            except Unavailable as error:
                log.warning("the stream takes no group; trying again", group_id=group.job.group_id, error=error.message)
                raise

        self._retrier.call(append, deadline, call_timeout_s=_XADD_TIMEOUT_S)

    def _append(self, key: str, payload: bytes) -> None:
        try:
            with redis_errors("appending a rollout group"):
                self._redis.xadd(key, {ROLLOUT_FIELD: payload})
        except redis.ResponseError as error:  # out of memory, or a replica that became read-only
            raise Unavailable(f"Redis refuses a rollout group: {error}", reason="REDIS_REFUSES") from error


class FeedbackQueue:
    """Sends groups to the feedback service's worker."""

    def __init__(self, app: celery.Celery, expires_s: float) -> None:
        self._app = app
        self._expires_s = expires_s

    def offer(self, group: Group) -> None:
        """See `types.Offer`."""
        send_offer_group(
            self._app,
            group_to_proto(group),
            project_id=group.job.feedback_project,
            control=group.job.feedback_control,
            expires=self._expires_s,
        )
