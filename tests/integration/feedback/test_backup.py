"""Backup and restore: an empty system goes on where the old one was, on the other kind of database too."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from preceptor.cli.backup.system_backup import System
from preceptor.cli.main import run
from preceptor.conductor.store.database import migrate as migrate_conductor
from preceptor.conductor.store.database import open_database
from preceptor.conductor.store.loops import LoopStore
from preceptor.conductor.store.registry import RegistryStore
from preceptor.conductor.types import RewardModelRecord, RunRecord, StageKind, StagePlan
from tests.integration.feedback.postgres import PostgresProcess
from tests.unit.feedback.world import PROJECT, World, comparison

MODEL = "runs/reward-1/model"


def sqlite_system(home: Path) -> System:
    data = f"sqlite:///{home}/data"
    return System(f"{data}/feedback.sqlite", f"{data}/conductor.sqlite", (home / "artifacts").as_uri())


def options(system: System) -> list[str]:
    places = {
        "--feedback-database": system.feedback_url,
        "--conductor-database": system.conductor_url,
        "--artifacts": system.artifacts_url,
    }
    return [part for place in places.items() for part in place]


def fill(home: Path) -> System:
    """Votes, a loop with a reward model whose files are in the store, and a file that nothing names."""
    system = sqlite_system(home)
    (home / "data").mkdir(parents=True)
    world = World(system.feedback_url)
    world.project(guidelines="Be kind.\u00e9")
    world.add(*(comparison(f"c{i}", overlap=2) for i in range(3)))
    first = world.submit("r1", "c0")
    world.submit("r1", "c0", order="cba", supersedes=first.event_id)
    world.submit("r2", "c1")
    world.must_lease("r3")
    world.close()
    make_model(system)
    folder = home / "artifacts" / MODEL
    (folder / "sub").mkdir(parents=True)
    (folder / "card.json").write_text("{}")
    (folder / "sub" / "weights").write_bytes(bytes(range(256)) * 20)
    (home / "artifacts" / "nobody").write_text("not named")
    return system


def make_model(system: System) -> None:
    engine = open_database(system.conductor_url)
    migrate_conductor(engine)
    now = datetime.now(UTC)
    uri = f"{system.artifacts_url}/{MODEL}"
    loops = LoopStore(engine)
    loops.create_loop("demo", "loop_id: demo", 1, (StagePlan("reward-1", StageKind.REWARD, 1),))
    loops.add_run(RunRecord("reward-1", "demo", "reward", "succeeded", 1, uri, "", now), "", 1)
    made = ("demo", PROJECT, 3, "ab" * 32, 2, 0.7, 0.8, 0.0, 1.0, False, "passed", now)
    RegistryStore(engine).register(RewardModelRecord(1, uri, "reward-1", *made))
    engine.dispose()


def test_an_empty_system_goes_on_where_the_old_one_was(
    tmp_path: Path, postgres: PostgresProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    old = fill(tmp_path / "old")
    folder = tmp_path / "backup"
    assert run(["backup", str(folder), *options(old), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 2
    new = sqlite_system(tmp_path / "new")
    new = System(postgres.empty_database(), new.conductor_url, new.artifacts_url)
    assert run(["restore", str(folder), *options(new), "--json"]) == 0
    before, after = World(old.feedback_url), World(new.feedback_url)
    assert after.feedback.create_snapshot(PROJECT) == before.feedback.create_snapshot(PROJECT)
    assert after.feedback.export_page(PROJECT, 3, 0) == before.feedback.export_page(PROJECT, 3, 0)
    assert after.feedback.get_project(PROJECT) == before.feedback.get_project(PROJECT)
    assert after.must_lease("r3").lease.lease_id == before.must_lease("r3").lease.lease_id
    assert after.submit("r4", "c2").sequence == 4
    after.add(comparison("later"))
    engine = open_database(new.conductor_url)
    assert RegistryStore(engine).get(1).uri == f"{new.artifacts_url}/{MODEL}"
    engine.dispose()
    assert (tmp_path / "new" / "artifacts" / MODEL / "sub" / "weights").read_bytes() == bytes(range(256)) * 20
    assert not (tmp_path / "new" / "artifacts" / "nobody").exists()
    assert run(["restore", str(folder), *options(new)]) == 1
    assert "restore into an empty database" in capsys.readouterr().err
    before.close()
    after.close()


def test_a_postgresql_backup_goes_into_sqlite(tmp_path: Path, postgres: PostgresProcess) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(["backup", str(first), *options(fill(tmp_path / "old"))]) == 0
    on_postgres = System(postgres.empty_database(), f"sqlite:///{tmp_path}/c.sqlite", (tmp_path / "a").as_uri())
    assert run(["restore", str(first), *options(on_postgres)]) == 0
    assert run(["backup", str(second), *options(on_postgres)]) == 0
    for name in ("vote_events", "leases", "comparisons", "projects", "guidelines"):
        assert (second / "feedback" / f"{name}.jsonl").read_text() == (first / "feedback" / f"{name}.jsonl").read_text()
    back = sqlite_system(tmp_path / "back")
    assert run(["restore", str(second), *options(back)]) == 0
    world = World(back.feedback_url)
    assert world.submit("r4", "c2").sequence == 4
    world.close()


def test_a_damaged_or_unfinished_backup_restores_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "backup"
    assert run(["backup", str(folder), *options(fill(tmp_path / "old"))]) == 0
    assert run(["backup", str(folder), *options(sqlite_system(tmp_path / "old"))]) == 2
    assert "is not empty" in capsys.readouterr().err
    new = sqlite_system(tmp_path / "new")
    with (folder / "artifacts" / MODEL / "card.json").open("a") as file:
        file.write(" ")
    assert run(["restore", str(folder), *options(new)]) == 1
    assert "the backup is damaged" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (folder / "manifest.json").unlink()
    assert run(["restore", str(folder), *options(new)]) == 2
    assert "no finished backup" in capsys.readouterr().err
