"""Who is alive, where, and holding what: records in Redis that expire unless renewed."""

from __future__ import annotations

import json
from typing import Any

from preceptor.common import redis_keys
from preceptor.common.redis_client import aio_redis, redis_errors, sync_redis

Record = dict[str, Any]
KIND_GENERATION = "generation"
KIND_LEARNER = "learner"
KIND_REWARD = "reward"
_SOCKET_TIMEOUT_S = 3.0  # short commands; a lease must not lapse while one waits


class Registry:
    """Leased records by kind and id. Threads may share one."""

    def __init__(self, redis_url: str) -> None:
        self._redis = sync_redis(redis_url, socket_timeout_s=_SOCKET_TIMEOUT_S)

    def announce(self, kind: str, id: str, record: Record, ttl_s: float) -> None:
        """Stores or renews a record for `ttl_s`; announce again at about a third of that."""
        with redis_errors("announcing"):
            self._redis.set(redis_keys.discovery(kind, id), _dump(id, record), px=_milliseconds(ttl_s))

    def withdraw(self, kind: str, id: str) -> None:
        """Removes a record; succeeds when there is none."""
        with redis_errors("withdrawing"):
            self._redis.delete(redis_keys.discovery(kind, id))

    def list(self, kind: str) -> list[Record]:
        """Returns the live records of a kind, ordered by id, each with its `id`."""
        with redis_errors("listing"):
            keys = sorted(self._redis.scan_iter(match=_pattern(kind), count=1000))
            values = self._redis.mget(keys) if keys else []
        return [json.loads(value) for value in values if value is not None]

    def close(self) -> None:
        self._redis.close()


class AsyncRegistry:
    """As `Registry`, for asyncio."""

    def __init__(self, redis_url: str) -> None:
        self._redis = aio_redis(redis_url, socket_timeout_s=_SOCKET_TIMEOUT_S)

    async def announce(self, kind: str, id: str, record: Record, ttl_s: float) -> None:
        """As `Registry.announce`."""
        with redis_errors("announcing"):
            await self._redis.set(redis_keys.discovery(kind, id), _dump(id, record), px=_milliseconds(ttl_s))

    async def withdraw(self, kind: str, id: str) -> None:
        """As `Registry.withdraw`."""
        with redis_errors("withdrawing"):
            await self._redis.delete(redis_keys.discovery(kind, id))

    async def list(self, kind: str) -> list[Record]:
        """As `Registry.list`."""
        with redis_errors("listing"):
            keys = sorted([key async for key in self._redis.scan_iter(match=_pattern(kind), count=1000)])
            values = await self._redis.mget(keys) if keys else []
        return [json.loads(value) for value in values if value is not None]

    async def close(self) -> None:
        await self._redis.aclose()


def _dump(id: str, record: Record) -> str:
    return json.dumps({**record, "id": id}, separators=(",", ":"))


def _milliseconds(ttl_s: float) -> int:
    return max(1, round(ttl_s * 1000))


def _pattern(kind: str) -> str:
    return redis_keys.discovery(kind, "*")
