"""A real Redis on a free port, as the embedded system has it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from preceptor.cli.bench.processes import free_port, leash
from preceptor.common.embedded_redis import redis_config, redis_executable
from preceptor.common.errors import FailedPrecondition
from preceptor.common.waiting import wait_until

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 30.0


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Yields its address without a database number, as in "redis://127.0.0.1:7000". Ends with the block.

    Raises:
        FailedPrecondition: there is no redis-server, or it ended at once.
    """
    home, port = folder / "redis", free_port()
    home.mkdir()
    config = home / "redis.conf"
    config.write_text(redis_config(home, port))
    log = home / "log"
    with log.open("ab") as file:
        process = subprocess.Popen([*leash(), str(redis_executable()), str(config)], stdout=file, stderr=file)
    url = f"redis://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(process, url, log), _START_TIMEOUT_S, "Redis to answer")
        yield url
    finally:
        process.terminate()
        process.wait(_STOP_TIMEOUT_S)


def _answers(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    if process.poll() is not None:
        raise FailedPrecondition(f"redis-server ended:\n{log.read_text(errors='replace')[-1000:]}")
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False
