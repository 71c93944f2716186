"""A votes database with many rankings in it, written by the service's own rows and digests but in few transactions."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, insert, text

from preceptor.cli.bench.feedback_load import CANDIDATE_WORDS, CANDIDATES, PROJECT, PROMPT_WORDS
from preceptor.cli.bench.models import random_text
from preceptor.feedback import canonical
from preceptor.feedback.adapters import rows
from preceptor.feedback.adapters.migrate import migrate
from preceptor.feedback.adapters.notices import READER
from preceptor.feedback.adapters.schema import comparisons, leases, vote_events
from preceptor.feedback.adapters.sql_store import SqlStore, make_engine
from preceptor.feedback.limits import Limits
from preceptor.feedback.service import FeedbackService, utc_now
from preceptor.feedback.types import (
    Candidate,
    Comparison,
    ComparisonState,
    Lease,
    LeaseState,
    Project,
    Prompt,
    Ranking,
    RankingBody,
    Strength,
    Submission,
    VoteEvent,
    VoteKind,
)

_PER_TRANSACTION = 2_000
_SETTINGS = {
    "sqlite": {"journal_mode": "PRAGMA journal_mode", "synchronous": "PRAGMA synchronous"},
    "postgresql": {name: f"SHOW {name}" for name in ("fsync", "synchronous_commit", "full_page_writes")},
}
_SQLITE_SYNCHRONOUS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}


def prepare(url: str) -> None:
    """Makes the tables."""
    engine = make_engine(url, 1)
    migrate(engine)
    engine.dispose()


def preload(url: str, rankings: int, raters: int) -> None:
    """Stores as many answered comparisons, each ranked once by one of the raters, and announced long ago."""
    engine = make_engine(url, 1)
    store = SqlStore(engine)
    FeedbackService(store, utc_now, Limits()).create_project(Project(PROJECT, PROJECT, default_overlap=1))
    rng = random.Random(0)
    for begin in range(0, rankings, _PER_TRANSACTION):
        with engine.begin() as connection:
            _store(
                connection, [_answered(rng, i % raters) for i in range(begin, min(begin + _PER_TRANSACTION, rankings))]
            )
    store.write(lambda tx: tx.set_cursor(READER, tx.high_water_mark(PROJECT)))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))  # as PostgreSQL's own autovacuum would have by the time there are so many
    store.close()


def durability(url: str) -> str:
    """The settings that say what a commit promises, as the service's own connections have them."""
    engine = make_engine(url, 1)
    with engine.connect() as connection:
        asked = _SETTINGS[engine.dialect.name]
        found = {name: connection.exec_driver_sql(query).scalar_one() for name, query in asked.items()}
    engine.dispose()
    if "synchronous" in found:
        found["synchronous"] = _SQLITE_SYNCHRONOUS[int(found["synchronous"])]
    return ", ".join(f"{name}={value}" for name, value in found.items())


def _store(connection: Connection, answered: list[tuple[Comparison, Lease, VoteEvent]]) -> None:
    for table, made in (
        (comparisons, [rows.comparison_row(comparison) for comparison, _, _ in answered]),
        (leases, [rows.lease_row(lease) for _, lease, _ in answered]),
        (vote_events, [rows.event_row(event) for _, _, event in answered]),
    ):
        connection.execute(insert(table), made)


def _answered(rng: random.Random, rater: int) -> tuple[Comparison, Lease, VoteEvent]:
    """One comparison with its one lease and vote."""
    comparison = _comparison(rng)
    submitted = comparison.created_at or utc_now()
    lease = Lease(
        lease_id=str(uuid.uuid4()),
        project_id=PROJECT,
        comparison_id=comparison.comparison_id,
        rater_id=f"rater-{rater}",
        state=LeaseState.ANSWERED,
        slot=0,
        shown_order=comparison.candidate_ids,
        guideline_version=1,
        leased_at=submitted - timedelta(seconds=30),
        expires_at=submitted + timedelta(seconds=270),
    )
    return comparison, lease, _event(comparison, lease)


def _event(comparison: Comparison, lease: Lease) -> VoteEvent:
    body = RankingBody(tuple((one,) for one in comparison.candidate_ids), strength=Strength.CLEAR)
    common: dict[str, Any] = {
        "event_id": str(uuid.uuid4()),
        "comparison_id": comparison.comparison_id,
        "rater_id": lease.rater_id,
    }
    submission = Submission(**common, lease_id=lease.lease_id, body=body, client="bench")
    vote = Ranking(
        **common,
        project_id=PROJECT,
        body=body,
        shown_order=lease.shown_order,
        lease_id=lease.lease_id,
        shown_at=lease.leased_at,
        submitted_at=comparison.created_at or utc_now(),
        guideline_version=1,
        supersedes="",
        late=False,
        client="bench",
    )
    return VoteEvent(
        kind=VoteKind.RANKING,
        **common,
        project_id=PROJECT,
        submitted_at=vote.submitted_at,
        target="",
        request_digest=canonical.submission_digest(submission),
        label_digest=canonical.label_digest(vote, comparison),
        ranking=vote,
    )


def _comparison(rng: random.Random) -> Comparison:
    bare = Comparison(
        comparison_id=f"stored-{uuid.uuid4()}",
        project_id=PROJECT,
        prompt=Prompt(text=random_text(PROMPT_WORDS, rng)),
        candidates=tuple(Candidate(f"c{i}", random_text(CANDIDATE_WORDS, rng)) for i in range(CANDIDATES)),
        overlap=1,
        state=ComparisonState.COMPLETE,
        rankings=1,
        created_at=utc_now(),
    )
    return replace(bare, digest=canonical.comparison_digest(bare))
