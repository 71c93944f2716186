"""Reward-model registry and lineage in the database. Every method is one transaction."""

from collections.abc import Sequence

from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session

from preceptor.common.errors import FailedPrecondition, NotFound
from preceptor.conductor.store.models import PolicySegmentRow, RewardModelRow, RunRow, SnapshotLabelRow
from preceptor.conductor.types import PolicyRange, RewardModelRecord

GATE_PASSED = "passed"


class RegistryStore:
    """Reward models, the votes behind them and the policy versions after them. Threads may share one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def next_version(self) -> int:
        """One above the highest version that any run was given, from 1."""
        with Session(self._engine) as session:
            return (session.scalar(select(func.max(RunRow.reward_model_version))) or 0) + 1

    def version_of_run(self, run_id: str) -> int:
        """The reward model version that a run was given.

        Raises:
            NotFound: no such reward run.
        """
        with Session(self._engine) as session:
            row = session.get(RunRow, run_id)
            if row is None or row.reward_model_version is None:
                raise NotFound(f"there is no reward run {run_id!r}", field="run_id")
            return row.reward_model_version

    def pin_labels(self, run_id: str, event_ids: Sequence[str]) -> None:
        """Stores which votes a run is trained on; once stored they stay."""
        with Session(self._engine) as session, session.begin():
            query = select(SnapshotLabelRow.event_id).where(SnapshotLabelRow.run_id == run_id).limit(1)
            if session.scalar(query) is None:
                session.add_all(SnapshotLabelRow(run_id=run_id, event_id=event_id) for event_id in event_ids)

    def register(self, model: RewardModelRecord) -> RewardModelRecord:
        """Adds a model unless its version is there; returns what is stored."""
        with Session(self._engine) as session, session.begin():
            row = session.get(RewardModelRow, model.reward_model_version)
            if row is None:
                row = RewardModelRow(**{name: getattr(model, name) for name in model.__slots__})
                session.add(row)
                session.flush()
            return _model(row)

    def get(self, version: int) -> RewardModelRecord:
        """Raises NotFound."""
        with Session(self._engine) as session:
            row = session.get(RewardModelRow, version)
            if row is None:
                raise NotFound(f"there is no reward model version {version}", field="reward_model_version")
            return _model(row)

    def list_models(self, offset: int, limit: int) -> list[RewardModelRecord]:
        """Newest first."""
        query = select(RewardModelRow).order_by(RewardModelRow.reward_model_version.desc()).offset(offset).limit(limit)
        with Session(self._engine) as session:
            return [_model(row) for row in session.scalars(query)]

    def promoted(self) -> RewardModelRecord | None:
        """The version that is to serve now."""
        with Session(self._engine) as session:
            row = session.scalar(select(RewardModelRow).where(RewardModelRow.promoted))
            return None if row is None else _model(row)

    def promote(self, version: int) -> RewardModelRecord:
        """Makes this version the only promoted one.

        Raises:
            NotFound: no such version.
            FailedPrecondition: its gate did not pass.
        """
        with Session(self._engine) as session, session.begin():
            row = session.get(RewardModelRow, version)
            if row is None:
                raise NotFound(f"there is no reward model version {version}", field="reward_model_version")
            if row.gate != GATE_PASSED:
                raise FailedPrecondition(
                    f"reward model {version} did not pass its gate: {row.gate}", reason="GATE_NOT_PASSED"
                )
            session.execute(update(RewardModelRow).values(promoted=False))
            row.promoted = True
            session.flush()
            return _model(row)

    def record_policy(self, run_id: str, reward_model_version: int, policy_version: int) -> None:
        """Notes that a policy version of the run was trained on this model's scores."""
        with Session(self._engine) as session, session.begin():
            row = session.get(PolicySegmentRow, (run_id, reward_model_version))
            if row is None:
                session.add(
                    PolicySegmentRow(
                        run_id=run_id,
                        reward_model_version=reward_model_version,
                        first_policy_version=policy_version,
                        last_policy_version=policy_version,
                    )
                )
            else:
                row.first_policy_version = min(row.first_policy_version, policy_version)
                row.last_policy_version = max(row.last_policy_version, policy_version)

    def models_behind(self, run_id: str, policy_version: int) -> tuple[list[RewardModelRecord], str]:
        """The reward models whose scores shaped a policy version, oldest first, and the run's initial model.

        Raises:
            NotFound: no such run.
        """
        query = (
            select(RewardModelRow)
            .join(PolicySegmentRow, PolicySegmentRow.reward_model_version == RewardModelRow.reward_model_version)
            .where(PolicySegmentRow.run_id == run_id, PolicySegmentRow.first_policy_version <= policy_version)
            .order_by(RewardModelRow.reward_model_version)
        )
        with Session(self._engine) as session:
            run = session.get(RunRow, run_id)
            if run is None:
                raise NotFound(f"there is no run {run_id!r}", field="run_id")
            return [_model(row) for row in session.scalars(query)], run.initial_model_uri

    def touched_by(self, event_id: str) -> tuple[list[RewardModelRecord], list[PolicyRange]]:
        """Every reward model trained on a vote, and every policy version that descends from one of these models."""
        models = (
            select(RewardModelRow)
            .join(SnapshotLabelRow, SnapshotLabelRow.run_id == RewardModelRow.run_id)
            .where(SnapshotLabelRow.event_id == event_id)
            .order_by(RewardModelRow.reward_model_version)
        )
        with Session(self._engine) as session:
            found = [_model(row) for row in session.scalars(models)]
            versions = [m.reward_model_version for m in found]
            firsts = session.execute(
                select(PolicySegmentRow.run_id, func.min(PolicySegmentRow.first_policy_version))
                .where(PolicySegmentRow.reward_model_version.in_(versions))
                .group_by(PolicySegmentRow.run_id)
                .order_by(PolicySegmentRow.run_id)
            ).all()
            return found, [PolicyRange(run_id, first, _last_version(session, run_id)) for run_id, first in firsts]


def _last_version(session: Session, run_id: str) -> int:
    query = select(func.max(PolicySegmentRow.last_policy_version)).where(PolicySegmentRow.run_id == run_id)
    return session.scalar(query) or 0


def _model(row: RewardModelRow) -> RewardModelRecord:
    return RewardModelRecord(**{name: getattr(row, name) for name in RewardModelRecord.__slots__})
