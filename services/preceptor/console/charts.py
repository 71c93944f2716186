"""Line charts as plain numbers: where lines, ticks and labels of an SVG stand. The template writes them down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 480.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 12.0, 34.0
"""The plot's frame inside the viewBox, in SVG units; LEFT and BOTTOM leave room for tick labels."""
MOST_DOTS = 12
"""A line with more points is drawn without a dot on each."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: its place in SVG units and its text."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: an SVG path, its last point, and what a legend says."""

    label: str
    path: str
    last_x: float
    last_y: float
    last_value: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawable chart. `summary` says in words what it shows."""

    title: str
    note: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    summary: str
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers covering [low, high], about `count` of them, steps of 1, 2 or 5 times a power of ten.

    Follows Heckbert, "Nice numbers for graph labels" (Graphics Gems, 1990).
    """
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise ValueError(f"no range from {low} to {high}")
    if high - low <= 1e-12 * max(1.0, abs(low), abs(high)):
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(1, count - 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(nice * magnitude for nice in (1, 2, 5, 10) if nice * magnitude >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, last + 1)]


def short(value: float) -> str:
    """A number as a tick shows it: 1200 -> '1.2k', 0.30000000000000004 -> '0.3'."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    if 0 < abs(value) < 1e-3:
        return f"{value:.2e}".replace("e-0", "e-")
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "0" if text == "-0" else text


def draw(title: str, lines: Sequence[tuple[str, Points]], *, x_label: str, note: str = "") -> Chart | None:
    """Lays a chart out, or returns None when no line has a point."""
    kept = [(label, points) for label, points in lines if points]
    if not kept:
        return None
    xs = [x for _, points in kept for x, _ in points]
    ys = [y for _, points in kept for _, y in points]
    x_values, y_values = _whole_ticks(min(xs), max(xs)), nice_ticks(min(ys), max(ys))
    x_place = _scale(min(min(xs), x_values[0]), max(max(xs), x_values[-1]), LEFT, WIDTH - RIGHT)
    y_place = _scale(y_values[0], y_values[-1], HEIGHT - BOTTOM, TOP)
    drawn = tuple(_line(label, points, x_place, y_place) for label, points in kept)
    return Chart(
        title=title,
        note=note,
        x_label=x_label,
        lines=drawn,
        x_ticks=tuple(Tick(x_place(value), short(value)) for value in x_values),
        y_ticks=tuple(Tick(y_place(value), short(value)) for value in y_values),
        summary=_summary(title, x_label, kept),
    )


def _whole_ticks(low: float, high: float) -> list[float]:
    """Versions and steps are whole numbers, so their ticks are too, and stay inside the data."""
    if low == high:
        return [low]
    inside = [tick for tick in nice_ticks(low, high, 6) if low <= tick <= high]
    whole = [tick for tick in inside if tick == round(tick)]
    return whole or [low, high]


class _scale:  # noqa: N801  (a function that remembers its range)
    def __init__(self, low: float, high: float, begin: float, end: float) -> None:
        self._low, self._span = low, (high - low)
        self._begin, self._width = begin, end - begin

    def __call__(self, value: float) -> float:
        share = (value - self._low) / self._span if self._span else 0.5
        return round(self._begin + share * self._width, 2)


def _line(label: str, points: Points, x_place: _scale, y_place: _scale) -> Line:
    placed = [(x_place(x), y_place(y)) for x, y in points]
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in placed)
    dots = tuple(placed) if len(placed) <= MOST_DOTS else ()
    return Line(label, path, *placed[-1], short(points[-1][1]), dots)


def _summary(title: str, x_label: str, lines: Sequence[tuple[str, Points]]) -> str:
    parts = [
        f"{label}: {short(points[0][1])} at {x_label} {short(points[0][0])}, "
        f"{short(points[-1][1])} at {x_label} {short(points[-1][0])}"
        for label, points in lines
    ]
    return f"{title}. " + "; ".join(parts)
