"""The port to the votes database: what the logic asks of it.

`adapters/sql_store.py` answers, for SQLite and PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from preceptor.feedback.access.store import AccessTransaction
from preceptor.feedback.quality.types import QualityVote
from preceptor.feedback.types import (
    Comparison,
    ComparisonState,
    Demonstration,
    LabelLine,
    Lease,
    Page,
    Project,
    RankedComparison,
    Ranking,
    RaterState,
    Stats,
    TieGroups,
    VoteEvent,
)

T = TypeVar("T")


class Transaction(AccessTransaction, Protocol):
    """Reads and writes of one atomic step.

    `lock_comparison` serialises every change of a comparison, its leases and its votes: whoever changes one of them
    calls it first, so that two raters cannot take one slot and no counter is lost.
    """

    def project(self, project_id: str) -> Project | None:
        """The project with its newest guidelines."""
        ...

    def lock_project(self, project_id: str) -> None:
        """Lets no one else add to the project until the end of the transaction; votes and leases go on."""
        ...

    def projects(self, after: str, limit: int) -> Page[Project]: ...
    def add_project(self, project: Project) -> None: ...
    def set_project(self, project: Project) -> None:
        """Overwrites title, default overlap, axes and settings."""
        ...

    def add_guidelines(self, project: Project) -> None:
        """Keeps `project.guidelines` as version `project.guideline_version`; older versions stay."""
        ...

    def comparison(self, comparison_id: str) -> Comparison | None: ...
    def comparisons(self, comparison_ids: Sequence[str]) -> dict[str, Comparison]:
        """Those that exist, by id."""
        ...

    def list_comparisons(
        self, project_id: str, state: ComparisonState | None, run_id: str, after: int, limit: int
    ) -> Page[Comparison]:
        """In order of creation."""
        ...

    def add_comparisons(self, comparisons: Sequence[Comparison]) -> None: ...
    def open_comparisons(self, project_id: str, at_most: int) -> int:
        """How many are open, counted no further than `at_most`."""
        ...

    def lock_comparison(self, comparison_id: str) -> Comparison | None:
        """The comparison, held against other writers until the end of the transaction."""
        ...

    def set_comparison(self, comparison_id: str, state: ComparisonState, rankings: int) -> None: ...

    def set_service(self, comparison: Comparison) -> None:
        """Overwrites how the comparison is served: overlap, priority, state."""
        ...

    def next_comparison(
        self, project_id: str, rater_id: str, now: datetime, *, wait: bool, gold: bool | None = None
    ) -> Comparison | None:
        """The open comparison of highest priority, oldest first, that has room and that the rater never met; locked.

        Args:
            wait: wait for rows that others hold; otherwise they are passed over.
            gold: gold items alone (True), none of them (False), or both.
        """
        ...

    def to_repeat(self, project_id: str, rater_id: str, gap: int) -> tuple[Comparison, tuple[str, ...]] | None:
        """A comparison that the rater ranked, with `gap` votes since, and that no repeat repeats for them yet; with the
        order in which it was shown."""
        ...

    def lease(self, lease_id: str) -> Lease | None: ...
    def leases_of(self, comparison_id: str) -> list[Lease]: ...
    def held_lease(self, project_id: str, rater_id: str) -> Lease | None:
        """The one lease in state HELD that the rater has in this project, expired or not."""
        ...

    def add_lease(self, lease: Lease) -> None: ...
    def set_lease(self, lease: Lease) -> None:
        """Overwrites state, slot, expiry and reason."""
        ...

    def event(self, event_id: str) -> VoteEvent | None: ...
    def ending_of(self, event_id: str) -> VoteEvent | None:
        """The event that superseded or retracted this vote."""
        ...

    def ranking_in_force(self, comparison_id: str, rater_id: str) -> Ranking | None: ...
    def append(self, event: VoteEvent) -> int:
        """Adds the event at the end of the log and returns its sequence."""
        ...

    def settle(self) -> None:
        """Waits until every sequence given so far is committed or gone, so that a high-water mark stays true."""
        ...

    def high_water_mark(self, project_id: str) -> int:
        """The newest sequence of the project, 0 when there is none."""
        ...

    def label_digests(self, project_id: str, high_water_mark: int, after: int, limit: int) -> list[LabelLine]:
        """Of the rankings in force at the mark, in sequence order, those above `after`."""
        ...

    def ranked(self, project_id: str, high_water_mark: int, after: int, limit: int) -> list[RankedComparison]:
        """The rankings in force at the mark with what was ranked, in sequence order, those above `after`."""
        ...

    def list_rankings(self, project_id: str, rater_id: str, before: int | None, limit: int) -> Page[Ranking]:
        """In force now, newest first."""
        ...

    def stats(self, project_id: str, now: datetime) -> Stats: ...

    def quality_votes(self, project_id: str, high_water_mark: int, limit: int) -> list[QualityVote]:
        """The newest `limit` votes in force at the mark, in sequence order."""
        ...

    def agreed(self, project_id: str, min_raters: int, limit: int) -> list[tuple[Comparison, TieGroups]]:
        """Comparisons, no gold items or repeats, that at least so many raters ranked and all alike; oldest first."""
        ...

    def rater_state(self, project_id: str, rater_id: str) -> RaterState | None: ...
    def rater_states(self, project_id: str) -> dict[str, RaterState]: ...
    def set_rater_state(self, state: RaterState) -> None: ...

    def demonstration(self, event_id: str) -> Demonstration | None: ...
    def add_demonstration(self, demonstration: Demonstration) -> int:
        """Returns its sequence."""
        ...

    def demonstrations(self, project_id: str, after: int, limit: int) -> Page[Demonstration]: ...

    def events_after(self, sequence: int, limit: int) -> list[VoteEvent]:
        """Of every project, in sequence order."""
        ...

    def cursor(self, name: str) -> int:
        """How far the named reader of the log has got; 0 at first."""
        ...

    def set_cursor(self, name: str, sequence: int) -> None:
        """Moves the reader forward; never back, as another process may have been quicker."""
        ...


class Store(Protocol):
    """Runs a step in one transaction. A step may run more than once: its only effect is through its transaction."""

    def write(self, step: Callable[[Transaction], T]) -> T:
        """Returns what the step returns, once it is durable.

        Raises:
            Unavailable: the database could not be reached or stayed locked; nothing was changed.
        """
        ...

    def read(self, step: Callable[[Transaction], T]) -> T: ...
