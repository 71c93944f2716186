"""A real Redis server, configured as the embedded default is, that tests may kill and start again."""

import os
import signal
import subprocess
from pathlib import Path

import redis

from preceptor.common.embedded_redis import redis_config, redis_executable
from preceptor.common.process import die_with_parent
from preceptor.common.waiting import wait_until
from tests.support.ports import free_port


class RedisProcess:
    """A Redis server with its data in `folder`. Use as a context manager; its port stays the same over restarts."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._config = folder / "redis.conf"
        self._config.write_text(redis_config(folder, self.port))
        self._log = folder / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "Redis was not started"
        return self._process.pid

    def start(self) -> None:
        """Starts the server and returns once it answers (its append-only file loaded)."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(redis_executable()), str(self._config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        wait_until(self._answers, 20, f"Redis on port {self.port}")

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kills and starts again on the same data and port."""
        self.kill()
        self.start()

    def __enter__(self) -> "RedisProcess":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"Redis ended with {self._process.returncode}:\n{self._log.read_text()[-2000:]}")
        try:
            with redis.Redis(port=self.port, socket_timeout=1, retry=None) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError):
            return False
