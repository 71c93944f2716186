"""Curves from a loop's events: bounded in points and in number, whatever the loop reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

X_NAMES = ("policy_version", "step")
"""A value of these names says where on the x axis the other values of its event stand; the first present wins."""
NOT_CURVES = frozenset({*X_NAMES, "total_steps", "reward_model_version"})


@dataclass(slots=True)
class Curve:
    """One measurement over policy versions (or steps): points (x, y) in order of x."""

    name: str
    x_name: str
    stage: str
    points: list[tuple[float, float]] = field(default_factory=list)

    def add(self, x: float, y: float, limit: int) -> None:
        """Appends a point; past twice `limit` points every second one goes, never the newest."""
        if self.points and x < self.points[-1][0]:
            self._rewind(x)
        if self.points and x == self.points[-1][0]:
            self.points[-1] = (x, y)
        else:
            self.points.append((x, y))
        if len(self.points) > 2 * limit:
            self.points = [*self.points[:-1:2], self.points[-1]]

    def _rewind(self, x: float) -> None:
        # A learner restarted from a checkpoint reports its steps again: what came after is history that did not happen.
        while self.points and self.points[-1][0] >= x:
            self.points.pop()


class CurveBook:
    """All curves of one loop. Non-finite values are left out; past `max_curves` new names are ignored."""

    def __init__(self, points_per_curve: int, max_curves: int = 256) -> None:
        self._limit = points_per_curve
        self._max_curves = max_curves
        self._curves: dict[tuple[str, str, str], Curve] = {}

    def add(self, stage: str, minutes: float, values: Mapping[str, float]) -> None:
        """Takes one event's values.

        Args:
            stage: the loop's stage, e.g. "rl-1". Steps begin anew in each stage; policy versions go on into "rl-2".
            minutes: since the loop began; stands in for x where the event has neither policy_version nor step.
            values: by name.
        """
        x_name = next((name for name in X_NAMES if name in values), "minutes")
        x = values.get(x_name, minutes)
        if not math.isfinite(x):
            return
        part = stage if x_name == "step" else stage.rstrip("0123456789").rstrip("-")
        for name, y in values.items():
            if name not in NOT_CURVES and math.isfinite(y):
                self._curve(name, x_name, part).add(x, y, self._limit)

    def _curve(self, name: str, x_name: str, stage: str) -> Curve:
        curve = self._curves.get((name, x_name, stage))
        if curve is None:
            curve = Curve(name, x_name, stage)
            if len(self._curves) < self._max_curves:
                self._curves[name, x_name, stage] = curve
        return curve

    def all(self) -> list[Curve]:
        """Every curve, by name, then in the order in which stages reported."""
        return sorted(self._curves.values(), key=lambda curve: curve.name)

    def named(self, names: Iterable[str]) -> list[Curve]:
        """The curves of these names, in the order of the names."""
        return [curve for name in names for curve in self.all() if curve.name == name]
