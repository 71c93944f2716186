"""Loops, stages, runs and events in the database. Every method is one transaction."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from preceptor.common.errors import AlreadyExists, NotFound
from preceptor.conductor.store.models import EventRow, LoopRow, RunRow, StageRow
from preceptor.conductor.types import (
    EventRecord,
    LoopRecord,
    LoopState,
    RunRecord,
    StageKind,
    StagePlan,
    StageRecord,
    StageState,
)


class LoopStore:
    """State of loops. Threads may share one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create_loop(
        self, loop_id: str, config_yaml: str, iterations: int, plan: tuple[StagePlan, ...]
    ) -> tuple[LoopRecord, bool]:
        """The loop and whether it is new.

        Raises:
            AlreadyExists: the id belongs to a loop with another config.
        """
        with Session(self._engine) as session, session.begin():
            row = session.get(LoopRow, loop_id)
            if row is not None:
                if row.config_yaml != config_yaml:
                    raise AlreadyExists(
                        f"loop {loop_id} exists with another config: choose another id", field="loop_id"
                    )
                return _loop(session, row), False
            row = LoopRow(
                loop_id=loop_id,
                config_yaml=config_yaml,
                state=LoopState.RUNNING.value,
                iterations=iterations,
                error="",
                stop_requested=False,
                created_at=_now(),
            )
            session.add(row)
            session.flush()
            for position, stage in enumerate(plan):
                session.add(_new_stage(loop_id, position, stage))
            session.flush()
            return _loop(session, row), True

    def get_loop(self, loop_id: str) -> LoopRecord:
        """Raises NotFound."""
        with Session(self._engine) as session:
            return _loop(session, _loop_row(session, loop_id))

    def list_loops(self, offset: int, limit: int) -> list[LoopRecord]:
        """Newest first."""
        query = select(LoopRow).order_by(LoopRow.created_at.desc(), LoopRow.loop_id).offset(offset).limit(limit)
        with Session(self._engine) as session:
            return [_loop(session, row) for row in session.scalars(query)]

    def running_loops(self) -> list[str]:
        """Ids of the loops that are to go on after a restart."""
        query = select(LoopRow.loop_id).where(LoopRow.state == LoopState.RUNNING.value)
        with Session(self._engine) as session:
            return list(session.scalars(query))

    def request_stop(self, loop_id: str) -> LoopRecord:
        """Marks a running loop as to be stopped."""
        with Session(self._engine) as session, session.begin():
            row = _loop_row(session, loop_id)
            row.stop_requested = True
            return _loop(session, row)

    def finish_loop(self, loop_id: str, state: LoopState, error: str = "") -> None:
        """Writes a final state and the loop's last event, at once: who sees the one sees the other."""
        message = f"loop {state.value}" + (f": {error}" if error else "")
        with Session(self._engine) as session, session.begin():
            row = _loop_row(session, loop_id)
            row.state, row.error = state.value, error
            session.add(EventRow(loop_id=loop_id, time=_now(), kind="stage", stage="", message=message, values={}))

    def set_stage(
        self,
        loop_id: str,
        name: str,
        *,
        state: StageState | None = None,
        run_id: str | None = None,
        progress: float | None = None,
        message: str | None = None,
    ) -> None:
        """Changes what is given; a first RUNNING sets started_at, DONE and FAILED set finished_at."""
        with Session(self._engine) as session, session.begin():
            query = select(StageRow).where(StageRow.loop_id == loop_id, StageRow.name == name)
            row = session.scalars(query).one()
            if state is not None:
                row.state = state.value
                if state is StageState.RUNNING and row.started_at is None:
                    row.started_at = _now()
                if state in (StageState.DONE, StageState.FAILED):
                    row.finished_at = _now()
            row.run_id = row.run_id if run_id is None else run_id
            row.progress = row.progress if progress is None else progress
            row.message = row.message if message is None else message

    def add_event(
        self, loop_id: str, kind: str, stage: str, message: str, values: Mapping[str, float] | None = None
    ) -> int:
        """Appends an event; returns its sequence."""
        # NaN and infinity are no JSON, and PostgreSQL refuses them.
        finite = {name: value for name, value in (values or {}).items() if math.isfinite(value)}
        row = EventRow(loop_id=loop_id, time=_now(), kind=kind, stage=stage, message=message, values=finite)
        with Session(self._engine) as session, session.begin():
            session.add(row)
            session.flush()
            return row.sequence

    def events_after(self, loop_id: str, sequence: int, limit: int = 1000) -> list[EventRecord]:
        """The loop's events with a higher sequence, oldest first."""
        query = (
            select(EventRow)
            .where(EventRow.loop_id == loop_id, EventRow.sequence > sequence)
            .order_by(EventRow.sequence)
            .limit(limit)
        )
        with Session(self._engine) as session:
            return [
                EventRecord(r.sequence, r.time, r.kind, r.stage, r.message, dict(r.values))
                for r in session.scalars(query)
            ]

    def add_run(self, run: RunRecord, initial_model_uri: str, reward_model_version: int | None) -> RunRecord:
        """Stores a run unless it is there; returns what is stored."""
        with Session(self._engine) as session, session.begin():
            row = session.get(RunRow, run.run_id)
            if row is None:
                row = RunRow(
                    run_id=run.run_id,
                    loop_id=run.loop_id,
                    kind=run.kind,
                    state=run.state,
                    attempt=run.attempt,
                    pid=0,
                    config_yaml=run.config_yaml,
                    output_uri=run.output_uri,
                    initial_model_uri=initial_model_uri,
                    reward_model_version=reward_model_version,
                    created_at=run.created_at,
                )
                session.add(row)
                session.flush()
            return _run(row)

    def find_run(self, run_id: str) -> RunRecord | None:
        """The run, if there is one."""
        with Session(self._engine) as session:
            row = session.get(RunRow, run_id)
            return None if row is None else _run(row)

    def set_run(self, run_id: str, *, state: str | None = None, pid: int | None = None) -> None:
        """Changes what is given; a pid not seen before counts as one more attempt."""
        with Session(self._engine) as session, session.begin():
            row = session.get_one(RunRow, run_id)
            row.state = row.state if state is None else state
            if pid and pid != row.pid:
                row.pid, row.attempt = pid, row.attempt + 1

    def list_runs(self, loop_id: str, offset: int, limit: int) -> list[RunRecord]:
        """Oldest first; of all loops when loop_id is empty."""
        query = select(RunRow).order_by(RunRow.created_at, RunRow.run_id).offset(offset).limit(limit)
        if loop_id:
            query = query.where(RunRow.loop_id == loop_id)
        with Session(self._engine) as session:
            return [_run(row) for row in session.scalars(query)]


def _now() -> datetime:
    return datetime.now(UTC)


def _new_stage(loop_id: str, position: int, stage: StagePlan) -> StageRow:
    return StageRow(
        loop_id=loop_id,
        position=position,
        name=stage.name,
        kind=stage.kind.value,
        iteration=stage.iteration,
        state=StageState.PENDING.value,
        run_id="",
        progress=0.0,
        message="",
    )


def _loop_row(session: Session, loop_id: str) -> LoopRow:
    row = session.get(LoopRow, loop_id)
    if row is None:
        raise NotFound(f"there is no loop {loop_id!r}", field="loop_id")
    return row


def _loop(session: Session, row: LoopRow) -> LoopRecord:
    stages = session.scalars(select(StageRow).where(StageRow.loop_id == row.loop_id).order_by(StageRow.position))
    return LoopRecord(
        loop_id=row.loop_id,
        config_yaml=row.config_yaml,
        state=LoopState(row.state),
        stages=tuple(_stage(s) for s in stages),
        iterations=row.iterations,
        created_at=row.created_at,
        error=row.error,
        stop_requested=row.stop_requested,
    )


def _stage(row: StageRow) -> StageRecord:
    return StageRecord(
        name=row.name,
        kind=StageKind(row.kind),
        iteration=row.iteration,
        state=StageState(row.state),
        started_at=row.started_at,
        finished_at=row.finished_at,
        run_id=row.run_id,
        progress=row.progress,
        message=row.message,
    )


def _run(row: RunRow) -> RunRecord:
    return RunRecord(
        run_id=row.run_id,
        loop_id=row.loop_id,
        kind=row.kind,
        state=row.state,
        attempt=row.attempt,
        config_yaml=row.config_yaml,
        output_uri=row.output_uri,
        created_at=row.created_at,
    )
