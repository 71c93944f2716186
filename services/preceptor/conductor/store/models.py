"""The tables. Times are UTC, stored as ISO text by `UtcDateTime`, so that SQLite and PostgreSQL agree."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, DateTime, Float, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up INTEGER primary keys alone


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC times in and out, also where the database keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Converts to UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Restores the zone that SQLite drops."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Base(DeclarativeBase):
    """Base of the conductor's tables."""


class LoopRow(Base):
    __tablename__ = "loops"
    loop_id: Mapped[str] = mapped_column(String(63), primary_key=True)
    config_yaml: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    iterations: Mapped[int] = mapped_column(Integer)
    error: Mapped[str] = mapped_column(Text, default="")
    stop_requested: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class StageRow(Base):
    __tablename__ = "stages"
    loop_id: Mapped[str] = mapped_column(ForeignKey("loops.loop_id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    iteration: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    run_id: Mapped[str] = mapped_column(String(63), default="")
    progress: Mapped[float] = mapped_column(Float, default=0.0)
    message: Mapped[str] = mapped_column(Text, default="")


class RunRow(Base):
    __tablename__ = "runs"
    run_id: Mapped[str] = mapped_column(String(63), primary_key=True)
    loop_id: Mapped[str] = mapped_column(ForeignKey("loops.loop_id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    pid: Mapped[int] = mapped_column(Integer, default=0)
    config_yaml: Mapped[str] = mapped_column(Text)
    output_uri: Mapped[str] = mapped_column(Text)
    initial_model_uri: Mapped[str] = mapped_column(Text, default="")
    reward_model_version: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class RewardModelRow(Base):
    __tablename__ = "reward_models"
    reward_model_version: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    uri: Mapped[str] = mapped_column(Text)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"))
    loop_id: Mapped[str] = mapped_column(String(63))
    project_id: Mapped[str] = mapped_column(String(63))
    label_high_water_mark: Mapped[int] = mapped_column(BigInteger)
    label_hash: Mapped[str] = mapped_column(String(128))
    rankings: Mapped[int] = mapped_column(BigInteger)
    heldout_accuracy: Mapped[float] = mapped_column(Float)
    noise_ceiling: Mapped[float] = mapped_column(Float)
    score_mean: Mapped[float] = mapped_column(Float)
    score_sd: Mapped[float] = mapped_column(Float)
    promoted: Mapped[bool] = mapped_column(Boolean, default=False)
    gate: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SnapshotLabelRow(Base):
    """Which votes a run's labels are."""

    __tablename__ = "snapshot_labels"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    event_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    __table_args__ = (Index("ix_snapshot_labels_event_id", "event_id"),)


class PolicySegmentRow(Base):
    """Policy versions of an rl run that were trained on one reward model's scores."""

    __tablename__ = "policy_segments"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    reward_model_version: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    first_policy_version: Mapped[int] = mapped_column(BigInteger)
    last_policy_version: Mapped[int] = mapped_column(BigInteger)


class EventRow(Base):
    __tablename__ = "events"
    sequence: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    loop_id: Mapped[str] = mapped_column(ForeignKey("loops.loop_id"))
    time: Mapped[datetime] = mapped_column(UtcDateTime)
    kind: Mapped[str] = mapped_column(String(32))
    stage: Mapped[str] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(Text)
    values: Mapped[dict[str, float]] = mapped_column(JSON)
    __table_args__ = (Index("ix_events_loop_id_sequence", "loop_id", "sequence"),)
