"""How runs share a worker's slots."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_REMEMBERED_S = 30.0


@dataclass(slots=True)
class _Demand:
    """held: slots now. peak: the most held at a time lately, at least since `since_s`. seen_s: when it last asked."""

    held: int = 0
    peak: int = 0
    since_s: float = 0.0
    seen_s: float = 0.0


class FairShare:
    """Admits tasks so that no run keeps another one waiting. Threads share it.

    A run may hold its quota of the slots. While other runs are about, it also leaves each of them room for one task
    more than that run held lately, up to an equal share: what others do not use is not kept from it.

    Args:
        slots: tasks that run at a time.
        quota: share of the slots that one run may hold at most, also when it is alone.
    """

    def __init__(self, slots: int, quota: float = 1.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._quota = quota
        self._clock = clock
        self._lock = threading.Lock()
        self._runs: dict[str, _Demand] = {}

    def expect(self, run_ids: Iterable[str]) -> None:
        """These runs are alive: room is left for them from now on."""
        with self._lock:
            for run_id in run_ids:
                self._demand(run_id).seen_s = self._clock()

    def try_enter(self, run_id: str) -> bool:
        """Takes a slot for a task of the run; False where the run must wait its turn. Pair True with `leave`."""
        with self._lock:
            demand = self._demand(run_id)
            demand.seen_s = self._clock()
            if not self._room(run_id):
                return False
            self._take(demand)
            return True

    def enter(self, run_id: str) -> None:
        """Takes a slot whatever the share. Pair with `leave`."""
        with self._lock:
            self._take(self._demand(run_id))

    def leave(self, run_id: str) -> None:
        with self._lock:
            self._runs[run_id].held -= 1

    def room(self, run_id: str) -> int:
        """Tasks of the run that could enter now."""
        with self._lock:
            return self._room(run_id)

    def held(self) -> dict[str, int]:
        """Slots by run."""
        with self._lock:
            return {run_id: demand.held for run_id, demand in self._runs.items() if demand.held}

    def _take(self, demand: _Demand) -> None:
        demand.held += 1
        demand.seen_s = self._clock()
        if demand.held >= demand.peak:
            demand.peak, demand.since_s = demand.held, self._clock()

    def _demand(self, run_id: str) -> _Demand:
        return self._runs.setdefault(run_id, _Demand())

    def _room(self, run_id: str) -> int:
        """An equal share is the run's own; beyond it, it takes what is free and not kept for the others."""
        self._forget()
        own = self._demand(run_id)
        equal = max(1, self._slots // max(1, len(self._runs)))
        others = [demand for name, demand in self._runs.items() if name != run_id]
        kept = sum(max(0, min(equal, demand.peak + 1) - demand.held) for demand in others)
        free = self._slots - own.held - sum(demand.held for demand in others)
        quota = max(1, int(self._slots * self._quota))
        return max(0, min(quota - own.held, max(equal - own.held, free - kept)))

    def _forget(self) -> None:
        now_s = self._clock()
        for run_id, demand in list(self._runs.items()):
            if now_s - demand.since_s > _REMEMBERED_S:
                demand.peak, demand.since_s = demand.held, now_s
            if not demand.held and now_s - demand.seen_s > _REMEMBERED_S:
                del self._runs[run_id]
