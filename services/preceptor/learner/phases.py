"""Where a run's time goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from preceptor.common.telemetry import BusyClock, counter

_total = counter("preceptor_learner_phase_seconds_total", "Time by phase of the rl run.", ("phase",))
WAIT = "wait"


class PhaseClock:
    """Seconds by phase: of the present step, and of the run. Every phase but "wait" counts as busy."""

    def __init__(self, busy: BusyClock, totals: dict[str, float] | None = None) -> None:
        self._busy = busy
        self.step_s: dict[str, float] = {}
        self.total_s: dict[str, float] = dict(totals or {})

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Adds the block's time to a phase."""
        started = time.monotonic()
        try:
            if phase == WAIT:
                yield
            else:
                with self._busy:
                    yield
        finally:
            seconds = time.monotonic() - started
            self.step_s[phase] = self.step_s.get(phase, 0.0) + seconds
            self.total_s[phase] = self.total_s.get(phase, 0.0) + seconds
            _total.labels(phase).inc(seconds)

    def next_step(self) -> dict[str, float]:
        """Returns the step's seconds by phase and starts anew."""
        seconds, self.step_s = self.step_s, {}
        return seconds

    @property
    def busy_s(self) -> float:
        """Busy seconds of the run, those before a restart included."""
        return sum(seconds for phase, seconds in self.total_s.items() if phase != WAIT)
