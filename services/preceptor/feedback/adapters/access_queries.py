"""Users, keys, sessions and the audit trail in SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from preceptor.feedback.access.types import ApiKey, AuditEntry, Role, Touched, User
from preceptor.feedback.adapters.schema import api_keys, audit_log, sessions, users, vote_events
from preceptor.feedback.adapters.vote_queries import in_force
from preceptor.feedback.types import Page, VoteKind

_USER = ("user_id", "login", "rater_id", "password_hash", "locked", "issuer", "subject", "created_at")


class AccessQueries:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def user(self, user_id: str) -> User | None:
        return self._user(users.c.user_id == user_id)

    def user_by_login(self, login: str) -> User | None:
        return self._user(users.c.login == login)

    def pseudonym_taken(self, rater_id: str) -> bool:
        return self._user(users.c.rater_id == rater_id) is not None

    def _user(self, condition: Any) -> User | None:
        row = self._connection.execute(select(users).where(condition)).mappings().first()
        return None if row is None else _user(row)

    def users(self, after: str, limit: int) -> Page[User]:
        query = select(users).where(users.c.user_id > after).order_by(users.c.user_id).limit(limit + 1)
        found = [_user(row) for row in self._connection.execute(query).mappings()]
        return Page(tuple(found[:limit]), found[limit - 1].user_id if len(found) > limit else None)

    def add_user(self, user: User) -> None:
        given = {name: getattr(user, name) for name in _USER} | {"role": user.role.value}
        self._connection.execute(insert(users), given)

    def set_user(self, user: User) -> None:
        changed = {"role": user.role.value, "password_hash": user.password_hash, "locked": user.locked}
        self._connection.execute(update(users).where(users.c.user_id == user.user_id).values(**changed))

    def forget_user(self, user_id: str) -> None:
        for table in (sessions, api_keys, users):
            self._connection.execute(delete(table).where(table.c.user_id == user_id))

    def add_api_key(self, key: ApiKey, secret_hash: str) -> None:
        given = {"key_id": key.key_id, "user_id": key.user_id, "label": key.label, "created_at": key.created_at}
        self._connection.execute(insert(api_keys), given | {"secret_hash": secret_hash})

    def revoke_api_key(self, key_id: str) -> bool:
        return self._connection.execute(delete(api_keys).where(api_keys.c.key_id == key_id)).rowcount > 0

    def add_session(self, user_id: str, secret_hash: str, expires_at: datetime) -> None:
        given = {"user_id": user_id, "secret_hash": secret_hash, "expires_at": expires_at}
        self._connection.execute(insert(sessions), given)

    def end_session(self, secret_hash: str) -> None:
        self._connection.execute(delete(sessions).where(sessions.c.secret_hash == secret_hash))

    def end_sessions(self, user_id: str) -> None:
        self._connection.execute(delete(sessions).where(sessions.c.user_id == user_id))

    def holder(self, secret_hash: str, now: datetime) -> User | None:
        by_key = select(api_keys.c.user_id).where(api_keys.c.secret_hash == secret_hash)
        by_session = select(sessions.c.user_id).where(
            sessions.c.secret_hash == secret_hash, sessions.c.expires_at > now
        )
        return self._user(users.c.user_id.in_(by_key.union_all(by_session)))

    def audit(self, entry: AuditEntry) -> None:
        given = {"time": entry.time, "actor": entry.actor, "action": entry.action, "target": entry.target}
        self._connection.execute(insert(audit_log), given)

    def audit_entries(self, before: int | None, limit: int) -> Page[AuditEntry]:
        query = select(audit_log).order_by(audit_log.c.sequence.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(audit_log.c.sequence < before)
        found = [AuditEntry(**row) for row in self._connection.execute(query).mappings()]
        return Page(tuple(found[:limit]), found[limit - 1].sequence if len(found) > limit else None)

    def touched_by(self, rater_id: str) -> list[Touched]:
        query = (
            select(vote_events.c.project_id, func.count(), func.min(vote_events.c.sequence))
            .where(vote_events.c.rater_id == rater_id, vote_events.c.kind == VoteKind.RANKING.value)
            .group_by(vote_events.c.project_id)
            .order_by(vote_events.c.project_id)
        )
        return [Touched(*row) for row in self._connection.execute(query)]

    def votes_in_force_of(self, rater_id: str) -> list[str]:
        query = select(vote_events.c.event_id).where(vote_events.c.rater_id == rater_id, *in_force())
        return [event_id for (event_id,) in self._connection.execute(query.order_by(vote_events.c.sequence))]


def _user(row: RowMapping) -> User:
    return User(role=Role(row["role"]), **{name: row[name] for name in _USER})
