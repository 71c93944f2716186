"""Doing and undoing what a chaos plan says."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence

import psutil

from preceptor.cli.bench.chaos_plan import Fault
from preceptor.cli.bench.chaos_system import TormentedRun
from preceptor.cli.bench.chaos_world import Network
from preceptor.common.waiting import wait_until

_RESTART_TIMEOUT_S = 60.0
_LINK_KBIT_PER_S = 256
_STOPPED_S, _RUNNING_S = 0.12, 0.04

Undo = Callable[[], None]


class Tormentor:
    """Turns faults into deeds."""

    def __init__(self, run: TormentedRun, network: Network) -> None:
        self._run = run
        self._network = network

    def do(self, fault: Fault) -> Undo:
        """Does it, and returns what puts it right (for a kill: waits until the supervisor has)."""
        if fault.kind == "kill":
            return self._kill(fault)
        if fault.kind == "freeze":
            return self._freeze(fault)
        if fault.kind == "cut":
            self._network.cut(fault.victim, silent=fault.variant == "silent")
            return lambda: self._network.mend(fault.victim)
        if fault.variant == "link":
            self._network.slow(fault.victim, _LINK_KBIT_PER_S)
            return lambda: self._network.unslow(fault.victim)
        throttle = Throttle(self._run.family(fault.victim))
        return throttle.end

    def _kill(self, fault: Fault) -> Undo:
        before = self._run.pid(fault.victim)
        family = self._run.family(fault.victim)
        children = family[1:] if fault.variant == "child" else []
        # Of an engine's children the largest does the work; the process can go on without some of the others.
        send(
            [max(children, key=lambda child: int(child.memory_info().rss))] if children else family[:1], signal.SIGKILL
        )

        def restarted() -> bool:
            return self._run.pid(fault.victim) not in (0, before)

        return lambda: wait_until(restarted, _RESTART_TIMEOUT_S, f"{fault.victim} to be started again")

    def _freeze(self, fault: Fault) -> Undo:
        family = self._run.family(fault.victim)
        frozen = family if fault.variant == "family" else family[:1]
        send(frozen, signal.SIGSTOP)
        return lambda: send(frozen, signal.SIGCONT)


class Throttle:
    """Lets processes run for a quarter of the time, until `end`."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._processes = processes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="throttle", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            send(self._processes, signal.SIGSTOP)
            self._over.wait(_STOPPED_S)
            send(self._processes, signal.SIGCONT)
            self._over.wait(_RUNNING_S)


def send(processes: Sequence[psutil.Process], number: int) -> None:
    """A signal to those that still live; psutil tells a process from a later one of the same number."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
