"""Label Studio in a venv of its own, and how many annotations per second its HTTP API takes."""

from __future__ import annotations

import http.client
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preceptor.cli.bench.processes import free_port, leash
from preceptor.common.errors import FailedPrecondition, InternalError
from preceptor.common.process import kill_group
from preceptor.common.waiting import wait_until

VERSION = "1.23"
_TOKEN = "0123456789abcdef0123456789abcdef01234567"
_START_TIMEOUT_S = 300.0
_INSTALL_TIMEOUT_S = 1200.0
_CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="best" toName="text">'
    '<Choice value="first"/><Choice value="second"/><Choice value="third"/><Choice value="fourth"/></Choices></View>'
)
_ANNOTATION = {
    "result": [{"from_name": "best", "to_name": "text", "type": "choices", "value": {"choices": ["first"]}}],
    "lead_time": 5.0,
}


def install(venv: Path) -> Path:
    """Returns the venv's label-studio, after making the venv where it is absent.

    Raises:
        FailedPrecondition: pip failed; says of what.
    """
    program = venv / "bin" / "label-studio"
    if program.exists():
        return program
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=_INSTALL_TIMEOUT_S)
    command = [str(venv / "bin" / "pip"), "install", "--quiet", f"label-studio=={VERSION}.*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)
    if done.returncode:
        raise FailedPrecondition(f"label-studio {VERSION} cannot be installed: {done.stderr.strip()[-500:]}")
    return program


class LabelStudio:
    """A running server, as `label-studio start` runs it, with one project."""

    def __init__(self, port: int, database: Path) -> None:
        self._port = port
        self._database = database
        project = self.call("POST", "/api/projects", {"title": "bench", "label_config": _CONFIG})
        self._project = int(project["id"])

    @property
    def durability(self) -> str:
        """Of its database: the journal as found in the file, synchronous as SQLite has it unless told otherwise."""
        connection = sqlite3.connect(self._database)
        try:
            journal = connection.execute("PRAGMA journal_mode").fetchone()[0]
            synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]
        finally:
            connection.close()
        return f"SQLite, journal_mode={journal}, synchronous={synchronous} (SQLite's default; 2 = FULL)"

    def rate(self, raters: int, submissions: int, text: str) -> float:
        """Annotations per second of as many raters at a time. Adding tasks, and finding the next one, is not timed."""
        path = f"/api/projects/{self._project}/import?return_task_ids=1"
        added = self.call("POST", path, [{"data": {"text": f"{text} {index}"}} for index in range(submissions)])
        left = iter(added["task_ids"])
        lock = threading.Lock()

        def rater(_: int) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            done = 0
            while True:
                with lock:
                    task = next(left, None)
                if task is None:
                    connection.close()
                    return done
                _call(connection, "POST", f"/api/tasks/{task}/annotations/", _ANNOTATION)
                done += 1

        begun = time.perf_counter()
        with ThreadPoolExecutor(raters) as pool:
            done = sum(pool.map(rater, range(raters)))
        if done != submissions:
            raise InternalError(f"{submissions} tasks were added and {done} annotated")
        return submissions / (time.perf_counter() - begun)

    def call(self, method: str, path: str, body: Any) -> Any:
        """The answer to one request. FailedPrecondition when it is refused."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            return _call(connection, method, path, body)
        finally:
            connection.close()


@contextmanager
def label_studio(program: Path, folder: Path) -> Iterator[LabelStudio]:
    """Starts a server on a database of its own; it ends with the block."""
    data, port = folder / "label-studio", free_port()
    data.mkdir()
    env = {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DJANGO_SETTINGS_MODULE")},
        "LABEL_STUDIO_BASE_DATA_DIR": str(data),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LATEST_VERSION_CHECK": "false",
        "COLLECT_ANALYTICS": "false",
        "DEBUG": "false",
    }
    command = [str(program), "start", "--no-browser", "--port", str(port), "--data-dir", str(data)]
    command += ["--username", "bench@localhost.local", "--password", "bench-bench-1", "--user-token", _TOKEN]
    with (folder / "label-studio.log").open("ab") as log:
        process = subprocess.Popen(
            [*leash(), *command], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until(lambda: _healthy(process, port, folder), _START_TIMEOUT_S, "Label Studio", interval_s=0.5)
        yield LabelStudio(port, data / "label_studio.sqlite3")
    finally:
        kill_group(process.pid)
        process.wait()


def _healthy(process: subprocess.Popen[bytes], port: int, folder: Path) -> bool:
    if process.poll() is not None:
        tail = (folder / "label-studio.log").read_text(errors="replace")[-1500:]
        raise FailedPrecondition(f"Label Studio ended with {process.returncode}:\n{tail}")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _call(connection: http.client.HTTPConnection, method: str, path: str, body: Any) -> Any:
    headers = {"Authorization": f"Token {_TOKEN}", "Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body), headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status >= 300:
        raise FailedPrecondition(f"Label Studio answers {answer.status} to {path}: {content[:300].decode()}")
    return json.loads(content)
