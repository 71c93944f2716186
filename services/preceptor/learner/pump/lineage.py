"""Which policy versions belong to the run's present line, and at which learner step each was made.

A restart from a checkpoint rolls versions back, and publishing goes on above the highest reserved number: the numbers
between belong to no line, and the first new number holds the checkpoint's weights again. So staleness is counted in
learner steps, not in version numbers.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class _Segment:
    first_version: int
    first_step: int
    last_version: int


class PolicyLineage:
    """Versions of the present line. Starts with `version` made at `step`."""

    def __init__(self, version: int = 0, step: int = 0) -> None:
        self._segments = [_Segment(version, step, version)]

    @property
    def version(self) -> int:
        """The version of the learner's weights."""
        return self._segments[-1].last_version

    @property
    def step(self) -> int:
        """The learner's step: updates in the present line."""
        last = self._segments[-1]
        return last.first_step + last.last_version - last.first_version

    @property
    def floor(self) -> int:
        """The lowest version that no restart can have rolled back: requests ask for at least this one."""
        return self._segments[-1].first_version if len(self._segments) > 1 else 0

    def advance(self, version: int) -> None:
        """The learner made one update; its weights are now `version`. ValueError unless the number is new."""
        if version <= self.version:
            raise ValueError(f"policy version {version} is not above {self.version}")
        if version == self.version + 1:
            self._segments[-1].last_version = version
        else:
            self._segments.append(_Segment(version, self.step + 1, version))

    def republish(self, version: int) -> None:
        """The weights of `self.version`, restored from a checkpoint, are published again as `version`."""
        if version <= self.version:
            raise ValueError(f"policy version {version} is not above {self.version}")
        self._segments.append(_Segment(version, self.step, version))

    def step_of(self, version: int) -> int | None:
        """The step that made `version`; None if it was rolled back or does not exist (its rollouts are orphaned)."""
        for segment in reversed(self._segments):
            if segment.first_version <= version <= segment.last_version:
                return segment.first_step + version - segment.first_version
        return None

    def version_at(self, step: int) -> int:
        """The lowest version of the present line made at `step` or later; the newest if there is none yet."""
        for segment in self._segments:
            last_step = segment.first_step + segment.last_version - segment.first_version
            if step <= last_step:
                return segment.first_version + max(0, step - segment.first_step)
        return self.version

    def snapshot(self) -> list[list[int]]:
        return [[s.first_version, s.first_step, s.last_version] for s in self._segments]

    @classmethod
    def restored(cls, snapshot: list[list[Any]]) -> "PolicyLineage":
        lineage = cls()
        lineage._segments = [_Segment(int(first), int(step), int(last)) for first, step, last in snapshot]
        return lineage
