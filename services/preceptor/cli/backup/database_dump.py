"""A database as JSON lines, one file per table, the same for SQLite and PostgreSQL."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, Table, func, insert, inspect, select, text
from sqlalchemy.exc import NoSuchTableError, OperationalError

from preceptor.common.errors import DataLoss, FailedPrecondition, Unavailable

VERSION_TABLE = "alembic_version"
BATCH = 500


def dump_database(engine: Engine, folder: Path) -> dict[str, Any]:
    """Writes every table as it stands at one moment; writers go on meanwhile. Returns what the manifest says of it.

    Raises:
        Unavailable: the database does not answer.
        FailedPrecondition: it has no schema yet.
    """
    folder.mkdir(parents=True)
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    try:
        with engine.connect().execution_options(preceptor_mode="read") as connection, connection.begin():
            revision = _revision(connection)
            tables = {table.name: _dump(connection, table, folder) for table in _tables(connection)}
    except OperationalError as error:
        raise Unavailable(f"the database {_shown(engine)} does not answer: {_first_line(error)}") from error
    return {"revision": revision, "tables": tables}


def load_database(engine: Engine, folder: Path, said: dict[str, Any], rewrite: Callable[[str], str]) -> int:
    """Fills an empty database that has the dump's schema, in one transaction; returns the number of rows.

    Args:
        rewrite: what to make of each text, for addresses that are others now.

    Raises:
        FailedPrecondition: there are rows already.
        DataLoss: a file is not what the manifest says.
    """
    rows = 0
    with engine.begin() as connection:
        tables = {table.name: table for table in _tables(connection)}
        for name, table in tables.items():
            if connection.execute(select(func.count()).select_from(table)).scalar_one():
                raise FailedPrecondition(
                    f"{_shown(engine)} has rows in {name}: restore into an empty database", reason="NOT_EMPTY"
                )
        for name, table in tables.items():
            if name in said["tables"]:
                rows += _load(connection, table, folder / f"{name}.jsonl", said["tables"][name], rewrite)
        _advance_sequences(connection, tables)
    return rows


def check_dump(folder: Path, said: dict[str, Any]) -> None:
    """Raises DataLoss for a file that is not what the manifest says."""
    for name, expected in said["tables"].items():
        path = folder / f"{name}.jsonl"
        if not path.is_file() or _sha256(path) != expected["sha256"]:
            raise DataLoss(f"{path} is not what was written: the backup is damaged", field=str(path))


def _revision(connection: Connection) -> str:
    if not inspect(connection).has_table(VERSION_TABLE):
        raise FailedPrecondition("the database has no schema yet: nothing was ever stored in it", reason="NO_SCHEMA")
    return str(connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one())


def _tables(connection: Connection) -> list[Table]:
    """Those with content, what others refer to first."""
    metadata = MetaData()
    try:
        metadata.reflect(connection)
    except NoSuchTableError as error:
        raise FailedPrecondition(f"the schema changed meanwhile: {error}; run it again") from error
    return [table for table in metadata.sorted_tables if table.name != VERSION_TABLE]


def _dump(connection: Connection, table: Table, folder: Path) -> dict[str, Any]:
    path = folder / f"{table.name}.jsonl"
    rows = 0
    with path.open("w", encoding="utf-8") as file:
        query = select(table).order_by(*table.primary_key.columns)
        for row in connection.execution_options(yield_per=BATCH).execute(query).mappings():
            file.write(json.dumps({name: _plain(value) for name, value in row.items()}) + "\n")
            rows += 1
    return {"rows": rows, "sha256": _sha256(path)}


def _load(connection: Connection, table: Table, path: Path, said: dict[str, Any], rewrite: Callable[[str], str]) -> int:
    loaded = 0
    for batch in _batches(path, rewrite):
        connection.execute(insert(table), batch)
        loaded += len(batch)
    if loaded != said["rows"]:
        raise DataLoss(f"{path}: {loaded} rows, the manifest says {said['rows']}")
    return loaded


def _batches(path: Path, rewrite: Callable[[str], str]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            batch.append({name: _value(value, rewrite) for name, value in json.loads(line).items()})
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _plain(value: Any) -> Any:
    """Times become {"$time": ISO 8601 in UTC}; JSON columns {"$json": ...}."""
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return {"$time": aware.astimezone(UTC).isoformat()}
    return {"$json": value} if isinstance(value, dict | list) else value


def _value(value: Any, rewrite: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return datetime.fromisoformat(value["$time"]) if "$time" in value else value["$json"]
    return rewrite(value) if isinstance(value, str) else value


def _advance_sequences(connection: Connection, tables: dict[str, Table]) -> None:
    """PostgreSQL does not count rows that came with their number; SQLite does."""
    if connection.dialect.name != "postgresql":
        return
    for table in tables.values():
        for column in table.primary_key.columns:
            given = {"table": table.name, "column": column.name}
            query = text("SELECT pg_get_serial_sequence(:table, :column)")
            sequence = connection.execute(query, given).scalar_one()
            newest = connection.execute(select(func.max(column))).scalar_one() if sequence else None
            if newest is not None:
                connection.execute(text("SELECT setval(:sequence, :newest)"), {"sequence": sequence, "newest": newest})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shown(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


def _first_line(error: OperationalError) -> str:
    return str(error.orig).strip().splitlines()[0]
