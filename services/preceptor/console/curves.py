"""Curves from a loop's events: bounded in points and in number, whatever the loop reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

X_NAMES = ("policy_version", "step")
"""A value of these names says where on the x axis the other values of its event stand; the first present wins."""


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
        self._curves: dict[tuple[str, str], Curve] = {}

    def add(self, stage: str, sequence: int, values: Mapping[str, float]) -> None:
        """Takes one event's values. Without policy_version or step, x is the event's sequence."""
        x_name = next((name for name in X_NAMES if name in values), "event")
        x = values.get(x_name, float(sequence))
        if not math.isfinite(x):
            return
        for name, y in values.items():
            if name not in X_NAMES and math.isfinite(y):
                self._curve(name, x_name, stage).add(x, y, self._limit)

    def _curve(self, name: str, x_name: str, stage: str) -> Curve:
        curve = self._curves.get((name, x_name))
        if curve is None:
            curve = Curve(name, x_name, stage)
            if len(self._curves) < self._max_curves:
                self._curves[name, x_name] = curve
        return curve

    def all(self) -> list[Curve]:
        """Every curve, by name."""
        return sorted(self._curves.values(), key=lambda curve: (curve.name, curve.x_name))

    def named(self, names: Iterable[str]) -> list[Curve]:
        """The curves of these names, in the order of the names."""
        by_name: dict[str, list[Curve]] = {}
        for curve in self.all():
            by_name.setdefault(curve.name, []).append(curve)
        return [curve for name in names for curve in by_name.get(name, [])]
