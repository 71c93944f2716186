"""Leases in SQL."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, literal_column, select, update

from preceptor.feedback.adapters import rows
from preceptor.feedback.adapters.schema import leases
from preceptor.feedback.types import Lease

_BY_ID = select(leases).where(leases.c.lease_id == bindparam("lease_id"))
_OF_COMPARISON = select(leases).where(leases.c.comparison_id == bindparam("comparison_id")).order_by(leases.c.leased_at)
_HELD = select(leases).where(
    leases.c.project_id == bindparam("project_id"),
    leases.c.rater_id == bindparam("rater_id"),
    leases.c.state == literal_column("'held'"),  # a literal, for the partial index
)
_SET = (
    update(leases)
    .where(leases.c.lease_id == bindparam("of"))
    .values({name: bindparam(name) for name in ("state", "slot", "expires_at", "reason")})
)


class LeaseQueries:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def lease(self, lease_id: str) -> Lease | None:
        row = self._connection.execute(_BY_ID, {"lease_id": lease_id}).mappings().first()
        return None if row is None else rows.lease(row)

    def leases_of(self, comparison_id: str) -> list[Lease]:
        found = self._connection.execute(_OF_COMPARISON, {"comparison_id": comparison_id}).mappings()
        return [rows.lease(row) for row in found]

    def held_lease(self, project_id: str, rater_id: str) -> Lease | None:
        row = self._connection.execute(_HELD, {"project_id": project_id, "rater_id": rater_id}).mappings().first()
        return None if row is None else rows.lease(row)

    def add_lease(self, lease: Lease) -> None:
        self._connection.execute(insert(leases), rows.lease_row(lease))

    def set_lease(self, lease: Lease) -> None:
        changed = {name: getattr(lease, name) for name in ("slot", "expires_at", "reason")}
        self._connection.execute(_SET, {"of": lease.lease_id, "state": lease.state.value, **changed})
