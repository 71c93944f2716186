"""One embedded system from the outside: bring it up, wait for it, look at it, take it down."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from preceptor.cli.stack.layout import Layout, save_options
from preceptor.cli.stack.programs import ProgramFactory
from preceptor.cli.stack.supervisor import Supervisor
from preceptor.common.embedded_redis import redis_config
from preceptor.common.errors import DeadlineExceeded, FailedPrecondition, InternalError
from preceptor.common.ports import bindable
from preceptor.common.supervisord import ENDED_STATES, Program, config_text
from preceptor.common.waiting import wait_until

MAX_STARTS = 2
"""A process that was started more often than this without becoming ready is given up."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One row of `preceptor status`."""

    name: str
    state: str
    ready: bool | None
    """From /readyz; None where the process has no such endpoint (Redis, jobs that have ended)."""
    pid: int
    detail: str


class Stack:
    """The processes of one home directory. Every method may be called from any process on the machine."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.factory = ProgramFactory(layout)
        self.supervisor = Supervisor(layout.supervisor_config, layout.supervisor_socket)

    def up(self, extra: list[Program] | None = None) -> None:
        """Starts everything. FailedPrecondition when it runs already or a port is taken; waits for nothing."""
        if self.supervisor.is_running():
            raise FailedPrecondition(
                f"a system is already running in {self.layout.home}: see it with `preceptor status --home "
                f"{self.layout.home}`, stop it with `preceptor down --home {self.layout.home}`"
            )
        programs = self.factory.all() + (extra or [])
        self._refuse_taken_ports(programs)
        self._write_files(programs)
        self.supervisor.start()

    def down(self) -> bool:
        """Stops everything and waits for the end. False when nothing was running."""
        if not self.supervisor.is_running():
            return False
        self.supervisor.shutdown()
        for path in self.layout.jobs_dir.glob("*.conf"):
            path.unlink()
        return True

    def wait_ready(self, names: list[str], timeout_s: float) -> None:
        """Returns when /readyz of all `names` says yes. One that keeps dying fails at once, with its log's end."""
        waiting = list(names)
        pids: dict[str, set[int]] = {name: set() for name in names}

        def ready() -> bool:
            self._refuse_crash_loops(waiting, pids)
            waiting[:] = [name for name in waiting if not self.is_ready(name)]
            return not waiting

        try:
            wait_until(ready, timeout_s=timeout_s, what="services")
        except DeadlineExceeded as error:
            raise DeadlineExceeded(
                f"not ready after {timeout_s:.0f} s: {', '.join(waiting)}. The end of {waiting[0]}'s log:\n"
                + self.log_tail(waiting[0])
            ) from error

    def is_ready(self, name: str) -> bool:
        """Whether the process's /readyz answers 200 (Redis: whether its port answers)."""
        if name == "redis":
            return _accepts(self.layout.options.host, self.layout.redis_port)
        port = self.metrics_ports().get(name)
        return port is not None and _http_ok(f"http://{self.layout.options.host}:{port}/readyz")

    def metrics_ports(self) -> dict[str, int]:
        """The metrics port of each program that has one."""
        ports = {}
        for program in self.factory.all():
            for key, value in program.env.items():
                if key.endswith("_METRICS_PORT") and "LEARNER" not in key:
                    ports[program.name] = int(value)
        return ports | {"learner": self.layout.port(7240)}

    def status(self) -> list[ProcessStatus]:
        """All processes, learner jobs included."""
        ports = self.metrics_ports()
        rows = []
        for info in self.supervisor.processes():
            name = info["name"]
            running = info["statename"] not in ENDED_STATES
            known = name in ports or name == "redis"
            rows.append(
                ProcessStatus(
                    name=name,
                    state=info["statename"].lower(),
                    ready=self.is_ready(name) if running and known else None,
                    pid=info["pid"],
                    detail=info["description"],
                )
            )
        return rows

    def run_job(self, program: Program) -> None:
        """Starts a job beside the services; one of that name that has ended is replaced."""
        self.supervisor.client.remove(program.name)
        (self.layout.jobs_dir / f"{program.name}.conf").write_text(program.section(self.layout.logs_dir))
        self.supervisor.client.add(program.name)

    def log_tail(self, name: str, lines: int = 15) -> str:
        """The last lines of a process's log."""
        path = self.layout.logs_dir / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.is_file() else "(no log)"

    def _refuse_crash_loops(self, names: list[str], pids: dict[str, set[int]]) -> None:
        """`pids` collects the process ids seen per name: too many mean that the process keeps dying."""
        for info in self.supervisor.processes():
            name = info["name"]
            if name not in names:
                continue
            pids[name].add(info["pid"])
            if info["statename"] in {"BACKOFF", "FATAL"} or len(pids[name] - {0}) > MAX_STARTS:
                raise InternalError(f"{name} does not start. The end of its log:\n{self.log_tail(name)}")

    def _refuse_taken_ports(self, programs: list[Program]) -> None:
        host = self.layout.options.host
        wanted = {"redis": self.layout.redis_port}
        for program in programs:
            for key, value in program.env.items():
                if key.endswith("_PORT") and "LEARNER" not in key:
                    wanted[f"{program.name} ({key})"] = int(value)
        taken = [f"{port} for {name}" for name, port in wanted.items() if not bindable(host, port)]
        if taken:
            raise FailedPrecondition(
                f"port in use on {host}: {', '.join(taken)}. Stop what listens there, or choose others with "
                "--port-base N (added to every port) and --console-port N"
            )

    def _write_files(self, programs: list[Program]) -> None:
        layout = self.layout
        for folder in (layout.jobs_dir, layout.logs_dir, layout.redis_dir, layout.data_dir, layout.artifacts_dir):
            folder.mkdir(parents=True, exist_ok=True)
        for path in layout.jobs_dir.glob("*.conf"):
            path.unlink()
        (layout.redis_dir / "redis.conf").write_text(redis_config(layout.redis_dir, layout.redis_port))
        layout.supervisor_config.write_text(
            config_text(
                directory=layout.supervisor_dir,
                socket=layout.supervisor_socket,
                logs_dir=layout.logs_dir,
                programs=programs,
            )
        )
        save_options(layout)


def _accepts(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def _http_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def stack_at(home: Path, layout: Layout | None) -> Stack:
    """The stack of a home that was up before; FailedPrecondition where there is none."""
    if layout is None:
        raise FailedPrecondition(f"no system was ever started in {home}: run `preceptor up --home {home}` first")
    return Stack(layout)
