"""The experience stream: a Redis Stream read through the consumer group "learner", by one consumer.

Entries stay pending until a checkpoint that contains them is durable. The single consumer has a fixed name, so after a
restart (of the learner, or of Redis) its pending entries are read again, in stream order, before new ones.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from preceptor.common.errors import Unavailable
from preceptor.common.redis_client import connection_options, redis_errors
from preceptor.common.redis_keys import ROLLOUT_CONSUMER_GROUP, ROLLOUT_FIELD, rollout_stream
from preceptor.common.telemetry import get_logger
from preceptor.learner.converters import group_result
from preceptor.learner.pump.results import GroupResult

log = get_logger(__name__)
_CONSUMER = "learner"
_PAGE = 128
_RETIRED_S = 24 * 3600


class RolloutStream:
    """Reads, and removes what was acknowledged. One thread reads; `acknowledge` may be called from another."""

    def __init__(self, redis_url: str, run_id: str, *, group_size: int, socket_timeout_s: float = 5.0) -> None:
        self._key = rollout_stream(run_id)
        self._group_size = group_size
        # No retries below this class: the reply to a lost XREADGROUP is pending, and must be read again as such.
        self._redis = redis.Redis.from_url(
            redis_url,
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # replies as lists
            **connection_options(socket_timeout_s),
        )
        self._opened = False
        self._pending_after: str | None = "0"  # where the reading of pending entries goes on; None: done

    def read(self, timeout_s: float) -> list[GroupResult]:
        """Pending entries first, page by page; then new ones, waiting up to timeout_s for the first.

        Empty only when the stream was read to its end. Raises Unavailable when Redis does not answer; what was on its
        way then comes again.
        """
        try:
            with redis_errors("reading the rollouts"):
                return self._read(timeout_s)
        except Unavailable:
            self._pending_after = "0"
            raise

    def acknowledge(self, entry_ids: Iterable[str]) -> None:
        """XACK and XDEL in one MULTI. Repeating it is harmless; Unavailable when Redis does not answer."""
        with redis_errors("acknowledging rollouts"):
            remaining = iter(entry_ids)
            while page := list(islice(remaining, 1000)):
                with self._redis.pipeline(transaction=True) as pipe:
                    pipe.xack(self._key, ROLLOUT_CONSUMER_GROUP, *page)
                    pipe.xdel(self._key, *page)
                    pipe.execute()

    def length(self) -> int:
        """Entries in the stream."""
        with redis_errors("counting rollouts"):
            return int(self._redis.xlen(self._key))

    def retire(self) -> None:
        """The run is over: the stream, with whatever late workers still add to it, goes after a day."""
        with redis_errors("retiring the stream"):
            self._redis.expire(self._key, _RETIRED_S)

    def close(self) -> None:
        self._redis.close()

    def _read(self, timeout_s: float) -> list[GroupResult]:
        if not self._opened:
            self._redis.persist(self._key)  # a run that had ended goes on
            self._opened = True
        while self._pending_after is not None:
            entries = self._fetch(self._pending_after, None)
            self._pending_after = entries[-1][0].decode() if entries else None
            results = self._convert(entries)
            if results:
                return results
        return self._convert(self._fetch(">", max(1, round(timeout_s * 1000))))

    def _fetch(self, start: str, block_ms: int | None) -> list[Any]:
        try:
            reply: Any = self._redis.xreadgroup(
                ROLLOUT_CONSUMER_GROUP, _CONSUMER, {self._key: start}, count=_PAGE, block=block_ms
            )
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self._make_group()
            return self._fetch(start, block_ms)
        return reply[0][1] if reply else []

    def _make_group(self) -> None:
        """From the stream's start: after a loss of data in Redis, entries that were read come again."""
        try:
            self._redis.xgroup_create(self._key, ROLLOUT_CONSUMER_GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        log.info("consumer group made", stream=self._key)

    def _convert(self, entries: list[Any]) -> list[GroupResult]:
        gone = [entry_id for entry_id, fields in entries if not fields]
        if gone:  # deleted while pending
            self._redis.xack(self._key, ROLLOUT_CONSUMER_GROUP, *gone)
        return [
            group_result(entry_id.decode(), fields.get(ROLLOUT_FIELD, b""), group_size=self._group_size)
            for entry_id, fields in entries
            if fields
        ]
