"""What the experience stream delivers, and the batches made of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from preceptor.learner.types import Experience


@dataclass(frozen=True, slots=True)
class ResultFailure:
    """Why an attempt has no rollouts. stage: "generation", "reward", "expired" or "malformed"."""

    stage: str
    reason: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class GroupResult:
    """One entry of the stream: the scored rollouts of an attempt, or its failure.

    completions: text of each rollout, for scoring again. truncated follows from Experience.finished.
    """

    entry_id: str
    run_id: str
    issue_index: int
    attempt: int
    experiences: tuple[Experience, ...]
    completions: tuple[str, ...]
    reward_model_version: int
    failure: ResultFailure | None = None
    generate_s: float = 0.0
    score_s: float = 0.0

    def rescored(self, scores: Sequence[float], reward_model_version: int) -> "GroupResult":
        """The same rollouts with the scores [n] of another reward model version."""
        experiences = tuple(
            replace(experience, score=score, reward_model_version=reward_model_version)
            for experience, score in zip(self.experiences, scores, strict=True)
        )
        return replace(self, experiences=experiences, reward_model_version=reward_model_version)

    def weighted(self, weight: float) -> "GroupResult":
        """The same rollouts, each with this weight in the loss."""
        if all(experience.weight == weight for experience in self.experiences):
            return self
        return replace(self, experiences=tuple(replace(e, weight=weight) for e in self.experiences))


@dataclass(frozen=True, slots=True)
class Batch:
    """Groups in issue order, and each one's staleness in learner steps."""

    groups: tuple[GroupResult, ...]
    staleness: tuple[int, ...]

    @property
    def issue_indexes(self) -> list[int]:
        return [group.issue_index for group in self.groups]

    @property
    def experiences(self) -> list[Experience]:
        return [experience for group in self.groups for experience in group.experiences]
