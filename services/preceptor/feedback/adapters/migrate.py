"""Brings the database to this program's schema, whoever starts first."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from preceptor.common.errors import FailedPrecondition
from preceptor.feedback.adapters.sql_store import translated

_MIGRATION_LOCK = 0x7072656D


def migrate(engine: Engine, revision: str = "head") -> None:
    """Returns once the schema is at the revision, the newest by default. Several processes may call it at once: one
    works, the others wait.

    Raises:
        Unavailable: the database does not answer.
        FailedPrecondition: a newer program has been here.
    """
    if engine.dialect.name == "sqlite" and engine.url.database:
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(engine):
            _upgrade(engine, revision)
    except OperationalError as error:
        raise translated(error) from error
    except CommandError as error:
        raise FailedPrecondition(
            f"the votes database was made by a newer version of Preceptor ({error}); run that version",
            reason="SCHEMA_TOO_NEW",
        ) from error


def _upgrade(engine: Engine, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


@contextmanager
def _locked(engine: Engine) -> Iterator[None]:
    if engine.dialect.name == "sqlite":
        with open(f"{engine.url.database}.migrate.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})
