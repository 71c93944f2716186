"""Projects and comparisons in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Connection, Select, bindparam, exists, func, insert, literal_column, select, update
from sqlalchemy.sql import ColumnElement

from preceptor.feedback.adapters import rows
from preceptor.feedback.adapters.schema import comparisons, guidelines, leases, projects
from preceptor.feedback.types import Comparison, ComparisonState, LeaseState, Page, Project

_PROJECT = (
    select(projects, guidelines.c.version, guidelines.c.text)
    .join(guidelines, guidelines.c.project_id == projects.c.project_id)
    .where(
        guidelines.c.version
        == select(func.max(guidelines.c.version))
        .where(guidelines.c.project_id == projects.c.project_id)
        .correlate(projects)
        .scalar_subquery()
    )
)
_PROJECT_BY_ID = _PROJECT.where(projects.c.project_id == bindparam("project_id"))
_BY_ID = select(comparisons).where(comparisons.c.comparison_id == bindparam("comparison_id"))
_BY_ID_LOCKED = _BY_ID.with_for_update()
# A literal, so that the planner sees that the partial index applies.
_OPEN: ColumnElement[str] = literal_column("'open'")
_SET = (
    update(comparisons)
    .where(comparisons.c.comparison_id == bindparam("of"))
    .values(state=bindparam("state"), rankings=bindparam("rankings"))
)


def _next_comparison(*, skip_locked: bool, gold: bool | None) -> Select:  # type: ignore[type-arg]
    """gold: gold items alone, none of them, or None for whatever is there."""
    met = exists().where(
        leases.c.comparison_id == comparisons.c.comparison_id, leases.c.rater_id == bindparam("rater_id")
    )
    at_work = (
        select(func.count())
        .where(
            leases.c.comparison_id == comparisons.c.comparison_id,
            leases.c.state == LeaseState.HELD.value,
            leases.c.expires_at > bindparam("now", type_=leases.c.expires_at.type),
        )
        .correlate(comparisons)
        .scalar_subquery()
    )
    kind = [] if gold is None else [comparisons.c.gold.is_(gold)]
    return (
        select(comparisons)
        .where(
            comparisons.c.project_id == bindparam("project_id"),
            comparisons.c.state == _OPEN,
            comparisons.c.only_rater == "",  # a repeat is leased when it is minted
            *kind,
            ~met,
            comparisons.c.rankings + at_work < comparisons.c.overlap,
        )
        .order_by(comparisons.c.priority.desc(), comparisons.c.position)
        .limit(1)
        .with_for_update(of=comparisons, skip_locked=skip_locked)
    )


# Built once: what building and hashing a statement costs is as much as running it.
_NEXT = {
    (wait, gold): _next_comparison(skip_locked=not wait, gold=gold)
    for wait in (False, True)
    for gold in (None, False, True)
}


class ComparisonQueries:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def project(self, project_id: str) -> Project | None:
        row = self._connection.execute(_PROJECT_BY_ID, {"project_id": project_id}).mappings().first()
        return None if row is None else rows.project(row)

    def lock_project(self, project_id: str) -> None:
        query = select(projects.c.project_id).where(projects.c.project_id == project_id)
        # Weaker than FOR UPDATE: the foreign keys of votes and leases do not wait for it.
        self._connection.execute(query.with_for_update(key_share=True))

    def projects(self, after: str, limit: int) -> Page[Project]:
        query = _PROJECT.where(projects.c.project_id > after).order_by(projects.c.project_id).limit(limit + 1)
        found = [rows.project(row) for row in self._connection.execute(query).mappings()]
        return Page(tuple(found[:limit]), found[limit - 1].project_id if len(found) > limit else None)

    def add_project(self, project: Project) -> None:
        self._connection.execute(
            insert(projects).values(
                project_id=project.project_id,
                title=project.title,
                default_overlap=project.default_overlap,
                axes=list(project.axes),
                settings=asdict(project.settings),
                created_at=project.created_at,
            )
        )
        self.add_guidelines(project)

    def set_project(self, project: Project) -> None:
        self._connection.execute(
            update(projects)
            .where(projects.c.project_id == project.project_id)
            .values(
                title=project.title,
                default_overlap=project.default_overlap,
                axes=list(project.axes),
                settings=asdict(project.settings),
            )
        )

    def add_guidelines(self, project: Project) -> None:
        self._connection.execute(
            insert(guidelines).values(
                project_id=project.project_id,
                version=project.guideline_version,
                text=project.guidelines,
                created_at=project.created_at,
            )
        )

    def comparison(self, comparison_id: str) -> Comparison | None:
        return self._one(comparison_id, lock=False)

    def lock_comparison(self, comparison_id: str) -> Comparison | None:
        return self._one(comparison_id, lock=True)

    def _one(self, comparison_id: str, *, lock: bool) -> Comparison | None:
        query = _BY_ID_LOCKED if lock else _BY_ID
        row = self._connection.execute(query, {"comparison_id": comparison_id}).mappings().first()
        return None if row is None else rows.comparison(row)

    def comparisons(self, comparison_ids: Sequence[str]) -> dict[str, Comparison]:
        found: dict[str, Comparison] = {}
        for start in range(0, len(comparison_ids), 500):
            query = select(comparisons).where(comparisons.c.comparison_id.in_(comparison_ids[start : start + 500]))
            for row in self._connection.execute(query).mappings():
                found[row["comparison_id"]] = rows.comparison(row)
        return found

    def list_comparisons(
        self, project_id: str, state: ComparisonState | None, run_id: str, after: int, limit: int
    ) -> Page[Comparison]:
        query = select(comparisons).where(comparisons.c.project_id == project_id, comparisons.c.position > after)
        if state is not None:
            query = query.where(comparisons.c.state == state.value)
        if run_id:
            query = query.where(comparisons.c.run_id == run_id)
        found = list(self._connection.execute(query.order_by(comparisons.c.position).limit(limit + 1)).mappings())
        next_key = found[limit - 1]["position"] if len(found) > limit else None
        return Page(tuple(rows.comparison(row) for row in found[:limit]), next_key)

    def add_comparisons(self, comparisons_: Sequence[Comparison]) -> None:
        self._connection.execute(insert(comparisons), [rows.comparison_row(value) for value in comparisons_])

    def open_comparisons(self, project_id: str, at_most: int) -> int:
        some = (
            select(comparisons.c.position)
            .where(comparisons.c.project_id == project_id, comparisons.c.state == _OPEN)
            .limit(at_most)
            .subquery()
        )
        return self._connection.execute(select(func.count()).select_from(some)).scalar_one()

    def set_comparison(self, comparison_id: str, state: ComparisonState, rankings: int) -> None:
        self._connection.execute(_SET, {"of": comparison_id, "state": state.value, "rankings": rankings})

    def set_service(self, comparison: Comparison) -> None:
        changed = update(comparisons).where(comparisons.c.comparison_id == comparison.comparison_id)
        self._connection.execute(
            changed.values(overlap=comparison.overlap, priority=comparison.priority, state=comparison.state.value)
        )

    def next_comparison(
        self, project_id: str, rater_id: str, now: datetime, *, wait: bool, gold: bool | None = None
    ) -> Comparison | None:
        given = {"project_id": project_id, "rater_id": rater_id, "now": now}
        row = self._connection.execute(_NEXT[wait, gold], given).mappings().first()
        return None if row is None else rows.comparison(row)
