"""A whole system in a folder, and back. The manifest is written last: without it a folder is no backup."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from preceptor.cli.backup.artifact_copy import below, check_artifacts, copy_in, copy_out
from preceptor.cli.backup.database_dump import check_dump, dump_database, load_database
from preceptor.common.durable import sync_tree, write_durably
from preceptor.common.errors import FailedPrecondition, InvalidInput
from preceptor.conductor.store.database import migrate as migrate_conductor
from preceptor.conductor.store.database import open_database
from preceptor.feedback.adapters.migrate import migrate as migrate_feedback
from preceptor.feedback.adapters.sql_store import make_engine

FORMAT = 1
MANIFEST = "manifest.json"
_NAMED = "SELECT uri FROM reward_models UNION SELECT output_uri FROM runs UNION SELECT initial_model_uri FROM runs"


@dataclass(frozen=True, slots=True)
class System:
    """Where a system keeps what must not be lost."""

    feedback_url: str
    conductor_url: str
    artifacts_url: str

    def engines(self) -> dict[str, Engine]:
        """The conductor first: the votes that its models name are then in the later dump for sure."""
        return {"conductor": open_database(self.conductor_url), "feedback": make_engine(self.feedback_url, 1)}


def back_up(system: System, folder: Path, on_file: Callable[[str], None]) -> dict[str, Any]:
    """Writes the backup and returns its manifest; the system may go on working.

    Raises:
        InvalidInput: the folder is there and not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInput(f"{folder} is not empty: name a new folder", field="dir")
    folder.mkdir(parents=True, exist_ok=True)
    engines = system.engines()
    databases = {}
    for name, engine in engines.items():
        on_file(f"database {name}")
        databases[name] = dump_database(engine, folder / name)
    with engines["conductor"].connect() as connection:
        named = [str(uri) for (uri,) in connection.execute(text(_NAMED))]
    inside, outside = below(system.artifacts_url, named)
    copied = copy_out(system.artifacts_url, inside, folder / "artifacts", on_file)
    for engine in engines.values():
        engine.dispose()
    manifest = {
        "format": FORMAT,
        "created_at": datetime.now(UTC).isoformat(),
        "artifacts_url": system.artifacts_url,
        "databases": databases,
        "artifacts": {**copied, "elsewhere": outside},
    }
    sync_tree(folder)
    write_durably(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def restore(folder: Path, system: System, on_file: Callable[[str], None]) -> dict[str, int]:
    """Fills an empty system and returns the number of rows by database. Everything is checked before anything is
    written; addresses of artifacts become those of the new store.

    Raises:
        InvalidInput: the folder is no backup, or one of a newer program.
        DataLoss: the backup is damaged.
        FailedPrecondition: a database has rows already.
    """
    manifest = read_manifest(folder)
    for name, said in manifest["databases"].items():
        check_dump(folder / name, said)
    check_artifacts(folder / "artifacts", manifest["artifacts"])
    engines = system.engines()
    for name, engine in engines.items():
        if engine.dialect.name == "sqlite" and engine.url.database:
            Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
        migrate = migrate_conductor if name == "conductor" else migrate_feedback
        migrate(engine, manifest["databases"][name]["revision"])
    copy_in(folder / "artifacts", manifest["artifacts"], system.artifacts_url, on_file)
    rewrite = _readdressed(manifest["artifacts_url"], system.artifacts_url)
    rows = {}
    for name, engine in engines.items():
        on_file(f"database {name}")
        kept: Callable[[str], str] = rewrite if name == "conductor" else str
        rows[name] = load_database(engine, folder / name, manifest["databases"][name], kept)
    migrate_conductor(engines["conductor"])
    migrate_feedback(engines["feedback"])
    for engine in engines.values():
        engine.dispose()
    return rows


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a whole backup. InvalidInput when there is none, FailedPrecondition when it is too new."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InvalidInput(f"{folder} is no finished backup: it has no {MANIFEST}", field="dir")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise FailedPrecondition(f"{folder} was written by a newer version of Preceptor; restore it with that version")
    return manifest


def _readdressed(old: str, new: str) -> Callable[[str], str]:
    """The old store's address replaced by the new one's, as an address and as a plain path."""
    pairs = [(old.rstrip("/"), new.rstrip("/"))]
    if old.startswith("file://") and new.startswith("file://"):
        pairs.append((old.removeprefix("file://").rstrip("/"), new.removeprefix("file://").rstrip("/")))

    def rewrite(value: str) -> str:
        for before, after in pairs:
            if before in value:
                return value.replace(before, after)
        return value

    return rewrite
