"""The vote log in SQL."""

from __future__ import annotations

import statistics
from datetime import datetime

from sqlalchemy import Connection, Select, bindparam, case, func, insert, literal_column, select, text, update
from sqlalchemy.sql import ColumnElement

from preceptor.feedback.adapters import rows
from preceptor.feedback.adapters.schema import MICROSECOND, comparisons, leases, log_readers, vote_events
from preceptor.feedback.types import (
    ComparisonState,
    LabelLine,
    Page,
    RankedComparison,
    Ranking,
    RaterStats,
    Stats,
    VoteEvent,
    VoteKind,
)

MEDIAN_OVER = 201
"""A rater's median time is taken over this many of their newest votes."""

# Sequences are drawn before commits are seen. Whoever appends holds this lock shared until commit; whoever fixes a
# high-water mark takes it exclusively for a moment, and so waits for those in flight.
_LOG_LOCK = 0x70726566
_ending = vote_events.alias("ending")


def in_force(high_water_mark: int | None = None) -> tuple[ColumnElement[bool], ...]:
    ended = select(_ending.c.sequence).where(_ending.c.target == vote_events.c.event_id)
    if high_water_mark is not None:
        ended = ended.where(_ending.c.sequence <= high_water_mark)
    return vote_events.c.kind == VoteKind.RANKING.value, ~ended.correlate(vote_events).exists()


_BY_ID = select(vote_events).where(vote_events.c.event_id == bindparam("event_id"))
_BY_TARGET = select(vote_events).where(vote_events.c.target == bindparam("event_id"))
_IN_FORCE_OF = select(vote_events).where(
    vote_events.c.comparison_id == bindparam("comparison_id"),
    vote_events.c.rater_id == bindparam("rater_id"),
    *in_force(),
)


class VoteQueries:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._shared_log = connection.dialect.name == "postgresql"

    def event(self, event_id: str) -> VoteEvent | None:
        return self._event(_BY_ID, event_id)

    def ending_of(self, event_id: str) -> VoteEvent | None:
        return self._event(_BY_TARGET, event_id)

    def _event(self, query: Select, event_id: str) -> VoteEvent | None:  # type: ignore[type-arg]
        row = self._connection.execute(query, {"event_id": event_id}).mappings().first()
        return None if row is None else rows.event(row)

    def ranking_in_force(self, comparison_id: str, rater_id: str) -> Ranking | None:
        given = {"comparison_id": comparison_id, "rater_id": rater_id}
        row = self._connection.execute(_IN_FORCE_OF, given).mappings().first()
        return None if row is None else rows.ranking(row)

    def append(self, event: VoteEvent) -> int:
        if self._shared_log:
            self._connection.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": _LOG_LOCK})
        result = self._connection.execute(insert(vote_events), rows.event_row(event))
        key = result.inserted_primary_key
        assert key is not None  # an insert of one row has one
        return int(key[0])

    def settle(self) -> None:
        if self._shared_log:
            self._connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOG_LOCK})

    def high_water_mark(self, project_id: str) -> int:
        query = select(func.max(vote_events.c.sequence)).where(vote_events.c.project_id == project_id)
        return self._connection.execute(query).scalar_one() or 0

    def label_digests(self, project_id: str, high_water_mark: int, after: int, limit: int) -> list[LabelLine]:
        columns = select(vote_events.c.sequence, vote_events.c.comparison_id, vote_events.c.label_digest)
        query = _labels(columns, project_id, high_water_mark, after).limit(limit)
        return [LabelLine(*row) for row in self._connection.execute(query)]

    def ranked(self, project_id: str, high_water_mark: int, after: int, limit: int) -> list[RankedComparison]:
        query = _labels(select(vote_events), project_id, high_water_mark, after).limit(limit)
        votes = [rows.ranking(row) for row in self._connection.execute(query).mappings()]
        ids = sorted({vote.comparison_id for vote in votes})
        found = self._connection.execute(select(comparisons).where(comparisons.c.comparison_id.in_(ids))).mappings()
        by_id = {row["comparison_id"]: rows.comparison(row) for row in found}
        return [RankedComparison(vote, by_id[vote.comparison_id]) for vote in votes]

    def list_rankings(self, project_id: str, rater_id: str, before: int | None, limit: int) -> Page[Ranking]:
        query = select(vote_events).where(vote_events.c.project_id == project_id, *in_force())
        if rater_id:
            query = query.where(vote_events.c.rater_id == rater_id)
        if before is not None:
            query = query.where(vote_events.c.sequence < before)
        query = query.order_by(vote_events.c.sequence.desc()).limit(limit + 1)
        found = [rows.ranking(row) for row in self._connection.execute(query).mappings()]
        return Page(tuple(found[:limit]), found[limit - 1].sequence if len(found) > limit else None)

    def events_after(self, sequence: int, limit: int) -> list[VoteEvent]:
        query = (
            select(vote_events).where(vote_events.c.sequence > sequence).order_by(vote_events.c.sequence).limit(limit)
        )
        return [rows.event(row) for row in self._connection.execute(query).mappings()]

    def cursor(self, name: str) -> int:
        query = select(log_readers.c.sequence).where(log_readers.c.name == name)
        return self._connection.execute(query).scalar_one_or_none() or 0

    def set_cursor(self, name: str, sequence: int) -> None:
        ahead = update(log_readers).where(log_readers.c.name == name, log_readers.c.sequence < sequence)
        moved = self._connection.execute(ahead.values(sequence=sequence))
        if moved.rowcount == 0 and self.cursor(name) == 0:
            self._connection.execute(insert(log_readers).values(name=name, sequence=sequence))

    def stats(self, project_id: str, now: datetime) -> Stats:
        by_state = select(comparisons.c.state, func.count()).where(comparisons.c.project_id == project_id)
        states: dict[str, int] = dict(self._connection.execute(by_state.group_by(comparisons.c.state)).all())
        active = select(func.count()).where(
            leases.c.project_id == project_id, leases.c.state == literal_column("'held'"), leases.c.expires_at > now
        )
        raters = self._raters(project_id)
        return Stats(
            comparisons_open=states.get(ComparisonState.OPEN.value, 0),
            comparisons_complete=states.get(ComparisonState.COMPLETE.value, 0),
            rankings=sum(rater.rankings for rater in raters),
            leases_active=self._connection.execute(active).scalar_one(),
            label_high_water_mark=self.high_water_mark(project_id),
            raters=raters,
        )

    def _raters(self, project_id: str) -> tuple[RaterStats, ...]:
        # Every event that ends a vote is of that vote's rater, so the votes in force are a difference.
        made = func.sum(case((vote_events.c.kind == VoteKind.RANKING.value, 1), else_=0))
        query = (
            select(vote_events.c.rater_id, made - func.count(vote_events.c.target))
            .where(vote_events.c.project_id == project_id)
            .group_by(vote_events.c.rater_id)
            .order_by(vote_events.c.rater_id)
        )
        return tuple(
            RaterStats(rater_id, int(count), self._median_seconds(project_id, rater_id))
            for rater_id, count in self._connection.execute(query).all()
        )

    def _median_seconds(self, project_id: str, rater_id: str) -> float:
        query = (
            select(vote_events.c.shown_at, vote_events.c.submitted_at)
            .where(
                vote_events.c.project_id == project_id,
                vote_events.c.rater_id == rater_id,
                vote_events.c.kind == VoteKind.RANKING.value,
            )
            .order_by(vote_events.c.sequence.desc())
            .limit(MEDIAN_OVER)
        )
        seconds = [
            max(0.0, (submitted - shown) / MICROSECOND / 1e6) for shown, submitted in self._connection.execute(query)
        ]
        return statistics.median(seconds) if seconds else 0.0


def _labels(query: Select, project_id: str, high_water_mark: int, after: int) -> Select:  # type: ignore[type-arg]
    """The votes in force at the mark: what came or ended later is as if it were not there."""
    return query.where(
        vote_events.c.project_id == project_id,
        vote_events.c.sequence > after,
        vote_events.c.sequence <= high_water_mark,
        *in_force(high_water_mark),
    ).order_by(vote_events.c.sequence)
