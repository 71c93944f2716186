"""How many rollouts are worth having in flight: the fewest that keep the learner busy."""

from collections import deque
from dataclasses import dataclass
from typing import Any

_WINDOW = 8  # steps without a wait before less is tried
_MAX_WINDOW = 64


@dataclass(frozen=True, slots=True)
class LimitBounds:
    """In rollouts: from `least` to `most`, in multiples of `step` (a group) from `least`."""

    least: int
    most: int
    step: int


@dataclass(frozen=True, slots=True)
class StepObservation:
    """One learner step. wait_s: of step_s, waiting for its batch. spare: rollouts that had arrived beyond the batch.

    latency_s: what a group of the batch took at most, from sending to arrival; 0 where unknown.
    """

    wait_s: float
    step_s: float
    spare: int
    latency_s: float = 0.0


class InFlightLimit:
    """Raises the limit at once, by what was missing, when the learner waited; lowers it slowly while it did not.

    Lower by half of what lay idle throughout a window of steps; or by one group, where nothing lay idle but a whole
    group's latency is too short to be missed. A wait after a lowering says that it went too far: the window doubles.
    Not thread-safe. The first step after a start is no observation: everything waits for the first rollouts.
    """

    def __init__(self, bounds: LimitBounds, *, max_wait_share: float = 0.02) -> None:
        self._bounds = bounds
        self._max_wait_share = max_wait_share
        # Two batches: one in training, one being written. More where waiting shows that it takes more.
        self.limit = min(bounds.most, 2 * bounds.least)
        self._window = _WINDOW
        self._quiet: deque[StepObservation] = deque(maxlen=_MAX_WINDOW)
        self._lowered = False

    @classmethod
    def fixed(cls, limit: int) -> "InFlightLimit":
        return cls(LimitBounds(limit, limit, 1))

    def observe(self, step: StepObservation) -> None:
        """Takes in a step and moves the limit."""
        share = step.wait_s / max(step.step_s, 1e-9)
        if share > self._max_wait_share:
            self._raise(share)
            return
        self._quiet.append(step)
        if len(self._quiet) >= self._window:
            self._lower()
            self._quiet.clear()

    def snapshot(self) -> dict[str, Any]:
        return {"limit": self.limit, "window": self._window, "lowered": self._lowered}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Takes over a snapshot, as far as the bounds allow; an empty one changes nothing."""
        self.limit = self._within(int(snapshot.get("limit", self.limit)))
        self._window = int(snapshot.get("window", self._window))
        self._lowered = bool(snapshot.get("lowered", self._lowered))

    def _raise(self, share: float) -> None:
        if self._lowered:
            self._window = min(_MAX_WINDOW, 2 * self._window)
        self._lowered = False
        self._quiet.clear()
        self.limit = self._within(self.limit + max(self._bounds.step, round(min(1.0, share) * self._bounds.least)))

    def _lower(self) -> None:
        spare = min(step.spare for step in self._quiet)
        unmissed = max(step.latency_s / max(step.step_s, 1e-9) for step in self._quiet) < self._max_wait_share / 2
        less = max(spare // 2, self._bounds.step if spare or unmissed else 0)
        lower = self._within(self.limit - less)
        self._lowered = lower < self.limit
        self.limit = lower

    def _within(self, limit: int) -> int:
        """The nearest allowed value that is not below `limit`, as far as there is one."""
        bounds = self._bounds
        steps = -(-(limit - bounds.least) // bounds.step)
        return max(bounds.least, min(bounds.most, bounds.least + steps * bounds.step))
