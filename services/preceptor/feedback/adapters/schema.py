"""The tables, for SQLite and PostgreSQL alike. A change here needs a migration beside it; a test compares the two."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from preceptor.feedback.canonical import dumps

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class UtcTime(TypeDecorator[datetime]):
    """A moment as whole microseconds since 1970, which both databases keep exactly and sort alike."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else EPOCH + value * MICROSECOND


class CanonicalJson(TypeDecorator[Any]):
    """JSON in its one spelling, as ASCII text: so even a NUL in what a model wrote can be kept by PostgreSQL."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


# SQLite gives out rising row numbers only for a column that is exactly INTEGER PRIMARY KEY AUTOINCREMENT.
Serial = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

projects = Table(
    "projects",
    metadata,
    Column("project_id", String(63), primary_key=True),
    Column("title", Text, nullable=False),
    Column("default_overlap", Integer, nullable=False),
    Column("axes", CanonicalJson, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("settings", CanonicalJson, nullable=False, server_default="{}"),
)

guidelines = Table(
    "guidelines",
    metadata,
    Column("project_id", ForeignKey("projects.project_id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("position", Serial, primary_key=True),
    Column("comparison_id", String(200), nullable=False),
    Column("project_id", ForeignKey("projects.project_id"), nullable=False),
    Column("state", String(8), nullable=False),
    Column("rankings", Integer, nullable=False),
    Column("overlap", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("control", Boolean(create_constraint=False), nullable=False),
    Column("gold", Boolean(create_constraint=False), nullable=False),
    Column("run_id", Text, nullable=False),
    Column("group_id", Text, nullable=False),
    Column("prompt_id", Text, nullable=False),
    Column("repeat_of", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("prompt", CanonicalJson, nullable=False),
    Column("candidates", CanonicalJson, nullable=False),
    Column("gold_answer", CanonicalJson, nullable=False, server_default="[]"),
    Column("only_rater", String(63), nullable=False, server_default=text("''")),
    UniqueConstraint("comparison_id"),
    sqlite_autoincrement=True,
)
Index(
    "ix_comparisons_queue",
    comparisons.c.project_id,
    comparisons.c.priority.desc(),
    comparisons.c.position,
    sqlite_where=text("state = 'open'"),
    postgresql_where=text("state = 'open'"),
)
Index("ix_comparisons_state", comparisons.c.project_id, comparisons.c.state, comparisons.c.position)
Index("ix_comparisons_run", comparisons.c.project_id, comparisons.c.run_id, comparisons.c.position)

# What a repeat repeats, for finding answers that were not repeated yet.
Index(
    "ix_comparisons_repeat_of",
    comparisons.c.repeat_of,
    sqlite_where=text("repeat_of != ''"),
    postgresql_where=text("repeat_of != ''"),
)

leases = Table(
    "leases",
    metadata,
    Column("lease_id", String(200), primary_key=True),
    Column("project_id", ForeignKey("projects.project_id"), nullable=False),
    Column("comparison_id", ForeignKey("comparisons.comparison_id"), nullable=False),
    Column("rater_id", String(63), nullable=False),
    Column("state", String(9), nullable=False),
    Column("slot", Integer),
    Column("guideline_version", Integer, nullable=False),
    Column("leased_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("shown_order", CanonicalJson, nullable=False),
    Column("reason", Text, nullable=False),
    # Nobody is handed a comparison twice.
    UniqueConstraint("comparison_id", "rater_id"),
)
# Two raters never hold one slot.
Index(
    "uq_leases_slot",
    leases.c.comparison_id,
    leases.c.slot,
    unique=True,
    sqlite_where=text("state IN ('held', 'answered')"),
    postgresql_where=text("state IN ('held', 'answered')"),
)
# A rater works on one thing at a time in a project.
Index(
    "uq_leases_held",
    leases.c.project_id,
    leases.c.rater_id,
    unique=True,
    sqlite_where=text("state = 'held'"),
    postgresql_where=text("state = 'held'"),
)

# Append-only: rows are added, never changed. A vote is in force while no later row has it as target.
vote_events = Table(
    "vote_events",
    metadata,
    Column("sequence", Serial, primary_key=True),
    Column("event_id", String(36), nullable=False),
    Column("kind", String(10), nullable=False),
    Column("project_id", ForeignKey("projects.project_id"), nullable=False),
    Column("comparison_id", ForeignKey("comparisons.comparison_id"), nullable=False),
    Column("rater_id", String(63), nullable=False),
    Column("target", String(36)),
    Column("submitted_at", UtcTime, nullable=False),
    Column("shown_at", UtcTime),
    Column("late", Boolean(create_constraint=False), nullable=False),
    Column("guideline_version", Integer, nullable=False),
    Column("lease_id", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("request_digest", String(64), nullable=False),
    Column("label_digest", String(64), nullable=False),
    Column("shown_order", CanonicalJson, nullable=False),
    Column("body", CanonicalJson, nullable=False),
    UniqueConstraint("event_id"),
    UniqueConstraint("target"),  # a vote ends once
    sqlite_autoincrement=True,
)
Index("ix_vote_events_project", vote_events.c.project_id, vote_events.c.sequence)
Index("ix_vote_events_rater", vote_events.c.project_id, vote_events.c.rater_id, vote_events.c.sequence)
Index("ix_vote_events_comparison", vote_events.c.comparison_id, vote_events.c.rater_id)

raters = Table(
    "raters",
    metadata,
    Column("project_id", ForeignKey("projects.project_id"), primary_key=True),
    Column("rater_id", String(63), primary_key=True),
    Column("paused", Boolean(create_constraint=False), nullable=False),
    Column("reason", Text, nullable=False),
    Column("changed_by", String(63), nullable=False),
    Column("changed_at", UtcTime, nullable=False),
)

demonstrations = Table(
    "demonstrations",
    metadata,
    Column("sequence", Serial, primary_key=True),
    Column("event_id", String(36), nullable=False),
    Column("project_id", ForeignKey("projects.project_id"), nullable=False),
    Column("rater_id", String(63), nullable=False),
    Column("comparison_id", Text, nullable=False),
    Column("guideline_version", Integer, nullable=False),
    Column("submitted_at", UtcTime, nullable=False),
    Column("prompt", CanonicalJson, nullable=False),
    Column("text", CanonicalJson, nullable=False),
    UniqueConstraint("event_id"),
    sqlite_autoincrement=True,
)
Index("ix_demonstrations_project", demonstrations.c.project_id, demonstrations.c.sequence)

log_readers = Table(
    "log_readers",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
)

# The one table where people and their pseudonyms stand together.
users = Table(
    "users",
    metadata,
    Column("user_id", String(36), primary_key=True),
    Column("login", Text, nullable=False),
    Column("rater_id", String(63), nullable=False),
    Column("role", String(9), nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("locked", Boolean(create_constraint=False), nullable=False),
    Column("issuer", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    UniqueConstraint("login"),
    UniqueConstraint("rater_id"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(36), primary_key=True),
    Column("user_id", ForeignKey("users.user_id"), nullable=False),
    Column("secret_hash", String(64), nullable=False),
    Column("label", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    UniqueConstraint("secret_hash"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("secret_hash", String(64), primary_key=True),
    Column("user_id", ForeignKey("users.user_id"), nullable=False),
    Column("expires_at", UtcTime, nullable=False),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("sequence", Serial, primary_key=True),
    Column("time", UtcTime, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    sqlite_autoincrement=True,
)
