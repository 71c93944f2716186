"""How old a group is, and what to do with one that is too old."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from preceptor.learner.pump.lineage import PolicyLineage
from preceptor.learner.types import Experience


def oldest_step(experience: Experience, lineage: PolicyLineage) -> int | None:
    """Step of the oldest version that computed a token; None if one of the versions was rolled back."""
    steps = [lineage.step_of(version) for version, _, _ in experience.version_spans]
    known = [step for step in steps if step is not None]
    return min(known) if known and len(known) == len(steps) else None


def group_staleness(experiences: Sequence[Experience], lineage: PolicyLineage) -> int | None:
    """The learner's step minus the step of the oldest token in the group; None if a version was rolled back."""
    steps = [oldest_step(experience, lineage) for experience in experiences]
    known = [step for step in steps if step is not None]
    return lineage.step - min(known) if known and len(known) == len(steps) else None


class StalenessPolicy(Protocol):
    """What requests ask for, and what becomes of groups that are too old all the same."""

    @property
    def max_staleness(self) -> int: ...

    @property
    def waits(self) -> bool:
        """Whether a request may ask for a version that is not published yet, and so wait for it."""
        ...

    def too_old(self, staleness: int) -> bool:
        """Whether a group that has arrived, and is next in issue order, is given up."""
        ...

    def weight(self, staleness: int) -> float:
        """What a group of that age counts for in the loss, in [0, 1]."""
        ...


@dataclass(frozen=True, slots=True)
class WaitForAll:
    """Requests wait for weights that keep within max_staleness, and every group is trained, however long it took: long
    completions are not lost for being long.
    """

    max_staleness: int
    waits: bool = True

    def too_old(self, staleness: int) -> bool:
        return False

    def weight(self, staleness: int) -> float:
        return 1.0


@dataclass(frozen=True, slots=True)
class DropOlderThan:
    """Requests wait for nothing; groups that turn out older than max_staleness steps are given up."""

    max_staleness: int
    waits: bool = False

    def too_old(self, staleness: int) -> bool:
        return staleness > self.max_staleness

    def weight(self, staleness: int) -> float:
        return 1.0


@dataclass(frozen=True, slots=True)
class WeightDown:
    """Requests wait for nothing and every group is trained; each step beyond max_staleness multiplies its weight in the
    loss by `decay`.
    """

    max_staleness: int
    decay: float
    waits: bool = False

    def too_old(self, staleness: int) -> bool:
        return False

    def weight(self, staleness: int) -> float:
        return float(self.decay ** max(0, staleness - self.max_staleness))


def staleness_by_length(experiences: Sequence[Experience], lineage: PolicyLineage) -> dict[str, float]:
    """Mean and maximum staleness over rollouts, and how much older the longer half is than the shorter one."""
    ages = {e.rollout_id: group_staleness([e], lineage) or 0 for e in experiences}
    by_length = sorted(experiences, key=lambda e: len(e.token_ids))
    half = len(by_length) // 2
    metrics = {
        "staleness/mean": _mean(list(ages.values())),
        "staleness/max": float(max(ages.values(), default=0)),
    }
    if half:
        shorter = _mean([ages[e.rollout_id] for e in by_length[:half]])
        longer = _mean([ages[e.rollout_id] for e in by_length[-half:]])
        metrics["staleness/longer_half_minus_shorter"] = longer - shorter
    return metrics


def _mean(values: list[int]) -> float:
    return sum(values) / len(values) if values else 0.0
