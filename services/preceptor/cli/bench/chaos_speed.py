"""How fast a run trains, and how soon after a repair it is as fast as before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Trained = Sequence[tuple[float, int]]
BACK_AT = 0.9


def trained_at(history: Sequence[Mapping[str, Any]], group_size: int) -> list[tuple[float, int]]:
    """(Unix time, rollouts) of every step, those included that a restart undid: they were work all the same."""
    return [(row["time"], len(row["groups"]) * group_size) for row in history if row["event"] == "trained"]


def rate(trained: Trained, begin_s: float, end_s: float) -> float:
    """Rollouts per second in (begin_s, end_s]."""
    return sum(rollouts for at, rollouts in trained if begin_s < at <= end_s) / (end_s - begin_s)


def back_at(
    trained: Trained, repaired_s: float, before: float, now_s: float, *, window_s: float, step_s: float = 0.1
) -> float | None:
    """The first moment after a repair from which on, for window_s, the rate is BACK_AT of `before`; None: not yet."""
    recent = [(at, rollouts) for at, rollouts in trained if at > repaired_s]
    begin_s = repaired_s
    while begin_s + window_s <= now_s:
        if rate(recent, begin_s, begin_s + window_s) >= BACK_AT * before:
            return begin_s
        begin_s += step_s
    return None
