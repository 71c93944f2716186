"""Leases in SQL."""

from __future__ import annotations

from sqlalchemy import Connection, insert, literal_column, select, update

from preceptor.feedback.adapters import rows
from preceptor.feedback.adapters.schema import leases
from preceptor.feedback.types import Lease


class LeaseQueries:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def lease(self, lease_id: str) -> Lease | None:
        row = self._connection.execute(select(leases).where(leases.c.lease_id == lease_id)).mappings().first()
        return None if row is None else rows.lease(row)

    def leases_of(self, comparison_id: str) -> list[Lease]:
        query = select(leases).where(leases.c.comparison_id == comparison_id).order_by(leases.c.leased_at)
        return [rows.lease(row) for row in self._connection.execute(query).mappings()]

    def held_lease(self, project_id: str, rater_id: str) -> Lease | None:
        query = select(leases).where(
            leases.c.project_id == project_id,
            leases.c.rater_id == rater_id,
            leases.c.state == literal_column("'held'"),
        )
        row = self._connection.execute(query).mappings().first()
        return None if row is None else rows.lease(row)

    def add_lease(self, lease: Lease) -> None:
        self._connection.execute(insert(leases).values(**rows.lease_row(lease)))

    def set_lease(self, lease: Lease) -> None:
        self._connection.execute(
            update(leases)
            .where(leases.c.lease_id == lease.lease_id)
            .values(state=lease.state.value, slot=lease.slot, expires_at=lease.expires_at, reason=lease.reason)
        )
