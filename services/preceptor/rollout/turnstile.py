"""Where a run that has its share of a worker waits: its further tasks are parked, not queued before other runs'."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.common.errors import Unavailable
from preceptor.common.telemetry import counter, get_logger
from preceptor.rollout.fairness import FairShare

log = get_logger(__name__)
_parked = counter("preceptor_rollout_parked_tasks_total", "Tasks put aside because their run had its share of slots.")


class Parking(Protocol):
    """Tasks put aside, by run, for any worker to take. Raises Unavailable."""

    def park(self, task: rollout_pb2.CollectTask) -> None: ...

    def take(self, run_id: str) -> rollout_pb2.CollectTask | None: ...


class Turnstile:
    """Lets tasks in by FairShare and sends parked ones back to the queue as room appears. Threads share it.

    Args:
        share: who may enter.
        parking: where those go that may not.
        resend: puts a task on the queue again. Raises Unavailable.
        live_runs: runs whose learner is alive. Raises Unavailable.
    """

    def __init__(
        self,
        share: FairShare,
        parking: Parking,
        resend: Callable[[rollout_pb2.CollectTask], object],
        live_runs: Callable[[], Iterable[str]],
    ) -> None:
        self._share = share
        self._parking = parking
        self._resend = resend
        self._live_runs = live_runs
        self._lock = threading.Lock()
        self._runs: set[str] = set()  # that may have parked tasks

    def enter(self, task: rollout_pb2.CollectTask) -> bool:
        """Whether the task may run now (then `leave` afterwards); it is parked if not."""
        if self._share.try_enter(task.run_id):
            return True
        try:
            self._parking.park(task)
        except Unavailable as error:
            log.warning("a task cannot be parked and runs beyond its run's share", error=error.message)
            self._share.enter(task.run_id)
            return True
        _parked.inc()
        with self._lock:
            self._runs.add(task.run_id)
        return False

    def leave(self, run_id: str) -> None:
        """A task has ended; one that waited comes back."""
        self._share.leave(run_id)
        with self._lock:
            waits = run_id in self._runs
        if waits:
            self._bring_back(run_id, 1)

    def sweep(self) -> None:
        """Learns which runs are alive, and brings back what any worker parked, as far as there is room here."""
        try:
            live = set(self._live_runs())
        except Unavailable as error:
            log.debug("live runs are not known", error=error.message)
            return
        self._share.expect(live)
        with self._lock:
            runs = self._runs | live
        for run_id in runs:
            self._bring_back(run_id, self._share.room(run_id))

    def run(self, stopping: threading.Event, interval_s: float) -> None:
        """Sweeps until `stopping`."""
        while not stopping.wait(interval_s):
            self.sweep()

    def _bring_back(self, run_id: str, count: int) -> None:
        try:
            for _ in range(count):
                task = self._parking.take(run_id)
                if task is None:
                    with self._lock:
                        self._runs.discard(run_id)
                    return
                if not _expired(task):
                    self._resend(task)
        except Unavailable as error:
            log.warning("parked tasks stay where they are", error=error.message)


def _expired(task: rollout_pb2.CollectTask) -> bool:
    """Whether the pump has given the attempt up."""
    return task.HasField("deadline") and task.deadline.ToNanoseconds() / 1e9 <= time.time()
