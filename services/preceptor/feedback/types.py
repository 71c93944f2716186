"""The words of the feedback service as frozen values. They know no transport and no database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from preceptor.common.completions import Sampling

T = TypeVar("T")

TieGroups = tuple[tuple[str, ...], ...]
"""Candidate ids, best group first; the members of one group are held equal."""


class ComparisonState(StrEnum):
    OPEN = "open"  # wants more rankings
    COMPLETE = "complete"  # has as many in force as wanted
    CLOSED = "closed"  # withdrawn, takes no new lease


class Strength(StrEnum):
    """How much better the best group is than the rest."""

    SLIGHT = "slight"
    CLEAR = "clear"
    STRONG = "strong"


class LeaseState(StrEnum):
    """Where one rater stands with one comparison. Nobody returns to `HELD` once they have left it.

    HELD -> ANSWERED, SKIPPED or LAPSED; LAPSED or SKIPPED -> ANSWERED (a late vote is kept); ANSWERED <-> RETRACTED.
    """

    HELD = "held"  # also while expired, until another rater takes the slot
    ANSWERED = "answered"
    SKIPPED = "skipped"
    LAPSED = "lapsed"  # expired, and the slot went to another rater
    RETRACTED = "retracted"  # the vote was taken back


class VoteKind(StrEnum):
    RANKING = "ranking"
    RETRACTION = "retraction"


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """How a project measures its raters.

    Attributes:
        gold_rate, repeat_rate: shares of a rater's leases that are gold items, and repeats of what they ranked before.
        pause_below_reliability, pause_below_gold_accuracy: who is surely below is paused; 0: nobody.
        pause_after: shared comparisons, or gold items, before that can happen.
    """

    gold_rate: float = 0.0
    repeat_rate: float = 0.0
    pause_below_reliability: float = 0.0
    pause_below_gold_accuracy: float = 0.0
    pause_after: int = 20

    @property
    def pauses(self) -> bool:
        return self.pause_below_reliability > 0 or self.pause_below_gold_accuracy > 0


@dataclass(frozen=True, slots=True)
class Project:
    project_id: str
    title: str = ""
    guidelines: str = ""  # Markdown
    guideline_version: int = 1
    default_overlap: int = 1
    axes: tuple[str, ...] = ()
    settings: ProjectSettings = ProjectSettings()
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Exactly one of the two is set: plain text, or the turns of a conversation."""

    text: str | None = None
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    candidate_id: str
    text: str
    policy_version: int = -1  # newest among its tokens; -1: not written by a policy
    sampling: Sampling | None = None
    rollout_id: str = ""
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """A task for people. What follows `state` is the service's own account of it and no part of its content."""

    comparison_id: str
    project_id: str
    prompt: Prompt
    candidates: tuple[Candidate, ...]
    prompt_id: str = ""
    overlap: int = 0  # rankings wanted; 0 in a request: the project's default
    priority: int = 0  # higher is served first
    run_id: str = ""
    group_id: str = ""
    control: bool = False
    repeat_of: str = ""
    gold: bool = False
    gold_answer: TieGroups = ()  # the known answer of a gold item
    only_rater: str = ""  # a repeat is for whom it repeats
    state: ComparisonState = ComparisonState.OPEN
    rankings: int = 0  # in force
    created_at: datetime | None = None
    digest: str = ""  # SHA-256 of the content

    @property
    def candidate_ids(self) -> tuple[str, ...]:
        return tuple(candidate.candidate_id for candidate in self.candidates)


@dataclass(frozen=True, slots=True)
class AxisRating:
    axis: str
    candidate_id: str
    value: int  # 1..7


@dataclass(frozen=True, slots=True)
class RankingBody:
    """What a rater says of one comparison."""

    tie_groups: TieGroups
    all_bad: bool = False
    strength: Strength | None = None
    axis_ratings: tuple[AxisRating, ...] = ()
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """A vote as a client sends it."""

    event_id: str
    comparison_id: str
    rater_id: str
    body: RankingBody
    lease_id: str = ""
    shown_at: datetime | None = None
    supersedes: str = ""
    client: str = ""
    submitted_at: datetime | None = None  # when it was given, if not now


@dataclass(frozen=True, slots=True)
class Retraction:
    event_id: str
    retracts: str
    rater_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    """One stored vote. `sequence` is the store's order and is given on insertion."""

    event_id: str
    project_id: str
    comparison_id: str
    rater_id: str
    body: RankingBody
    shown_order: tuple[str, ...]  # empty: the vote came without a lease, so nobody knows
    lease_id: str
    shown_at: datetime
    submitted_at: datetime
    guideline_version: int
    supersedes: str = ""
    late: bool = False
    client: str = ""
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class VoteEvent:
    """One row of the append-only log: a ranking, or the retraction of one.

    Attributes:
        target: event_id of the vote that this event ends (superseded or retracted); empty for a first vote.
        request_digest: SHA-256 of what the client said, to tell a repeat from a conflict.
        label_digest: SHA-256 of the ranking's line in the canonical export; empty for a retraction.
    """

    kind: VoteKind
    event_id: str
    project_id: str
    comparison_id: str
    rater_id: str
    submitted_at: datetime
    target: str
    request_digest: str
    label_digest: str = ""
    ranking: Ranking | None = None
    reason: str = ""
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """Where one rater stands with one comparison: there is at most one per pair, for ever.

    Attributes:
        slot: 0 .. overlap - 1, or None where the rater's vote is beyond the overlap.
    """

    lease_id: str
    project_id: str
    comparison_id: str
    rater_id: str
    state: LeaseState
    slot: int | None
    shown_order: tuple[str, ...]
    guideline_version: int
    leased_at: datetime
    expires_at: datetime
    reason: str = ""

    def live(self, now: datetime) -> bool:
        """Whether the rater may be at work on it."""
        return self.state is LeaseState.HELD and now < self.expires_at


@dataclass(frozen=True, slots=True)
class Offer:
    """A lease with all that a rater needs to answer."""

    lease: Lease
    comparison: Comparison
    guidelines: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    project_id: str
    label_high_water_mark: int
    label_hash: str
    rankings: int
    comparisons: int


@dataclass(frozen=True, slots=True)
class LabelLine:
    """One line of the canonical export, by its digest."""

    sequence: int
    comparison_id: str
    label_digest: str


@dataclass(frozen=True, slots=True)
class RankedComparison:
    ranking: Ranking
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What a person would have answered. `sequence` is given on insertion."""

    event_id: str
    project_id: str
    rater_id: str
    prompt: Prompt
    text: str
    comparison_id: str = ""
    guideline_version: int = 0
    submitted_at: datetime | None = None
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class RaterState:
    """Whether a rater is given work, and why not."""

    project_id: str
    rater_id: str
    paused: bool = False
    reason: str = ""
    changed_by: str = ""
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RaterStats:
    rater_id: str
    rankings: int  # in force
    median_seconds: float  # from shown to submitted, over the newest rankings


@dataclass(frozen=True, slots=True)
class Stats:
    comparisons_open: int
    comparisons_complete: int
    rankings: int  # in force
    leases_active: int
    label_high_water_mark: int
    raters: tuple[RaterStats, ...] = ()


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a listing; `next_key` is None on the last page."""

    items: tuple[T, ...] = ()
    next_key: int | str | None = None
