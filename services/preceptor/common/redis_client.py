"""Redis clients with the timeouts and retries that every part shares."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from preceptor.common.errors import Unavailable

_RETRIES = 3
_CONNECT_TIMEOUT_S = 5.0
# A connection that was cut without a word is noticed by the kernel within seconds, not after two hours; and what was
# sent into a link that is mended goes out over a new connection instead of waiting for TCP, which doubles its patience.
KEEPALIVE_OPTIONS: dict[int, int] = (
    {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 3, socket.TCP_USER_TIMEOUT: 8_000}
    if sys.platform == "linux"
    else {}
)
_CONNECTION_ERRORS = (redis.ConnectionError, redis.TimeoutError)


def sync_redis(url: str, *, socket_timeout_s: float = 5.0) -> redis.Redis:
    """Returns a client that threads may share. A blocking read must block for less than `socket_timeout_s`."""
    return redis.Redis.from_url(
        url, retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), _RETRIES), **_options(socket_timeout_s)
    )


def aio_redis(url: str, *, socket_timeout_s: float = 5.0) -> redis.asyncio.Redis:
    """As `sync_redis`, for asyncio."""
    retry = AsyncRetry(ExponentialBackoff(cap=1.0, base=0.05), _RETRIES)
    return redis.asyncio.Redis.from_url(url, retry=retry, **_options(socket_timeout_s))


def connection_options(socket_timeout_s: float) -> dict[str, Any]:
    """Keyword arguments of every connection to Redis: nothing waits for ever on one that is half open."""
    return {
        "socket_timeout": socket_timeout_s,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        "socket_keepalive_options": KEEPALIVE_OPTIONS,
        "health_check_interval": 30,
    }


def _options(socket_timeout_s: float) -> dict[str, Any]:
    return {**connection_options(socket_timeout_s), "retry_on_error": list(_CONNECTION_ERRORS)}


@contextmanager
def redis_errors(doing: str) -> Iterator[None]:
    """Turns a lost connection into Unavailable("Redis does not answer while <doing>: ...")."""
    try:
        yield
    except (*_CONNECTION_ERRORS, redis.exceptions.BusyLoadingError) as error:
        raise Unavailable(
            f"Redis does not answer while {doing}: {error}", reason="REDIS_UNAVAILABLE", retry_after_s=1.0
        ) from error
