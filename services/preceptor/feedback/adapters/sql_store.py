"""The votes database on SQLite or PostgreSQL: connections, transactions and what to do when one fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from preceptor.common.errors import Overloaded, Unavailable
from preceptor.feedback.adapters.access_queries import AccessQueries
from preceptor.feedback.adapters.comparison_queries import ComparisonQueries
from preceptor.feedback.adapters.lease_queries import LeaseQueries
from preceptor.feedback.adapters.rater_queries import RaterQueries
from preceptor.feedback.adapters.vote_queries import VoteQueries
from preceptor.feedback.store import Transaction

T = TypeVar("T")

ATTEMPTS = 10
LOCK_TIMEOUT_S = 10.0
RETRYABLE_SQLSTATES = frozenset({"40001", "40P01", "55P03"})  # serialisation, deadlock, lock not available


class SqlTransaction(ComparisonQueries, LeaseQueries, VoteQueries, RaterQueries, AccessQueries):
    """All queries over one connection."""

    def __init__(self, connection: Connection) -> None:
        ComparisonQueries.__init__(self, connection)
        LeaseQueries.__init__(self, connection)
        VoteQueries.__init__(self, connection)
        RaterQueries.__init__(self, connection)
        AccessQueries.__init__(self, connection)


class SqlStore:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # SQLite has one writer. Threads queue here, which wakes them in turn; its own busy handler, which sleeps and
        # polls, is left to settle the rarer case of another process.
        self._writer = threading.Lock() if engine.dialect.name == "sqlite" else None

    def write(self, step: Callable[[Transaction], T]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._queued(), self._transaction("write") as connection:
                    return step(SqlTransaction(connection))
            except DBAPIError as error:
                if attempt == ATTEMPTS or not _lost_a_race(error):
                    raise translated(error) from error
        raise AssertionError("unreachable")

    def read(self, step: Callable[[Transaction], T]) -> T:
        try:
            with self._transaction("read") as connection:
                return step(SqlTransaction(connection))
        except DBAPIError as error:
            raise translated(error) from error

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _queued(self) -> Iterator[None]:
        if self._writer is None:
            yield
            return
        if not self._writer.acquire(timeout=LOCK_TIMEOUT_S):
            raise Overloaded(f"the database was busy with other writes for {LOCK_TIMEOUT_S:g} s")
        try:
            yield
        finally:
            self._writer.release()

    @contextmanager
    def _transaction(self, mode: str) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(preceptor_mode=mode) as connection, connection.begin():
                yield connection
        except PoolTimeoutError as error:
            raise Overloaded("every connection to the database is in use") from error


def make_engine(url: str, pool_size: int) -> Engine:
    """An engine with our durability and locking settings; nothing is connected yet.

    Args:
        url: `sqlite:////path/to/file.db` or `postgresql://user@host/name`.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, pool_size=pool_size, connect_args={"timeout": LOCK_TIMEOUT_S})
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        pool_pre_ping=True,
        pool_timeout=LOCK_TIMEOUT_S,
        isolation_level="READ COMMITTED",
        connect_args={
            "connect_timeout": 5,
            "options": f"-c lock_timeout={int(LOCK_TIMEOUT_S * 1000)} -c statement_timeout=60000 "
            "-c synchronous_commit=on",
        },
    )


def _set_up_sqlite(dbapi_connection: Any, _record: Any) -> None:
    dbapi_connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A deferred writer that has read before it writes can fail without hope when another commits in between.
    reads = connection.get_execution_options().get("preceptor_mode") == "read"
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _lost_a_race(error: DBAPIError) -> bool:
    """Whether the step would find another state now: two made the same row, or PostgreSQL broke a tie."""
    if isinstance(error, IntegrityError):
        return True
    return getattr(error.orig, "sqlstate", None) in RETRYABLE_SQLSTATES


def translated(error: DBAPIError) -> Exception:
    """Unavailable for a database that does not answer, else the error as it is: a defect of ours."""
    if isinstance(error, OperationalError) or error.connection_invalidated:
        return Unavailable(f"the votes database does not answer: {str(error.orig).strip().splitlines()[0]}")
    return error
