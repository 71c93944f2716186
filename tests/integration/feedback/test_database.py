"""The schema and the same behaviour on SQLite and PostgreSQL."""

import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from preceptor.common.errors import FailedPrecondition, Unavailable
from preceptor.feedback.adapters.migrate import migrate
from preceptor.feedback.adapters.schema import metadata
from preceptor.feedback.adapters.sql_store import SqlStore, make_engine
from preceptor.feedback.lease_service import Release
from preceptor.feedback.types import AxisRating, Candidate, Prompt, Retraction, Snapshot, Strength
from tests.unit.feedback.world import PROJECT, World, comparison, ranked

MIGRATE = """
import sys
from preceptor.feedback.adapters.migrate import migrate
from preceptor.feedback.adapters.sql_store import make_engine
migrate(make_engine(sys.argv[1], 1))
"""


def test_the_migrations_make_the_tables_that_the_code_uses(world: World) -> None:
    with world.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_processes_that_start_at_once_migrate_once(database_url: str) -> None:
    starts = [subprocess.Popen([sys.executable, "-c", MIGRATE, database_url], stderr=subprocess.PIPE) for _ in range(4)]
    for start in starts:
        _, error = start.communicate(timeout=60)
        assert start.returncode == 0, error.decode()
    world = World(database_url)
    assert world.project().project_id == PROJECT
    world.close()


def test_a_database_of_a_newer_program_is_refused_untouched(world: World) -> None:
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(FailedPrecondition, match="newer version of Preceptor"):
        migrate(world.engine)


def test_a_database_that_is_not_there_says_so(tmp_path: Path) -> None:
    for url in (f"postgresql://nobody@/none?host={tmp_path}", "sqlite:////proc/nowhere/votes.sqlite"):
        engine = make_engine(url, 1)
        with pytest.raises((Unavailable, OSError)):
            migrate(engine)
        with pytest.raises(Unavailable, match="votes database does not answer"):
            SqlStore(engine).read(lambda tx: tx.project("x"))
        engine.dispose()


def story(world: World) -> Snapshot:
    """Everything that can happen to a vote, with fixed ids."""
    ids = (str(uuid.UUID(int=i, version=4)) for i in range(1, 100))
    world.project(axes=("helpful",), guidelines="Ü\n" * 100)
    world.add(
        comparison("one", overlap=2),
        comparison(
            "two", k=2, priority=1, prompt=Prompt("日本\x00"), candidates=(Candidate("a", "\x00"), Candidate("b", "🙂"))
        ),
    )
    two = world.must_lease("r1", 60).lease
    body = ranked("ba", strength=Strength.SLIGHT, axis_ratings=(AxisRating("helpful", "b", 2),), comment="\x00🙂")
    first = world.submit("r1", "two", event_id=next(ids), body=body, lease_id=two.lease_id)
    world.submit("r1", "two", event_id=next(ids), body=ranked("b", "a"), supersedes=first.event_id)
    lost = world.must_lease("r2", 10).lease
    world.must_lease("r3", 100)
    world.after(11)
    world.must_lease("r4", 100)
    world.submit("r2", "one", event_id=next(ids), lease_id=lost.lease_id)
    world.submit("r3", "one", event_id=next(ids))
    taken_back = world.submit("r4", "one", event_id=next(ids))
    world.votes.retract(Retraction(next(ids), taken_back.event_id, "r4"))
    world.add(comparison("three"))
    world.leases.release(Release(world.must_lease("r5").lease.lease_id, "r5", "odd", flag=True))
    return world.feedback.create_snapshot(PROJECT)


def test_a_story_ends_alike_on_both(tmp_path: Path, world: World) -> None:
    reference = World(f"sqlite:///{tmp_path / 'reference.sqlite'}")
    assert story(world) == story(reference)
    assert [world.state(name) for name in ("one", "two", "three")] == [("complete", 2), ("complete", 1), ("closed", 0)]
    assert world.feedback.stats(PROJECT) == reference.feedback.stats(PROJECT)
    pages = [each.feedback.export_page(PROJECT, 6, 0) for each in (world, reference)]
    plain = [[(i.ranking.sequence, i.ranking.body, i.ranking.late, i.comparison) for i in page] for page in pages]
    assert plain[0] == plain[1]
    assert [sequence for sequence, *_ in plain[0]] == [2, 3, 4]
    reference.close()


HOT_QUERIES = [
    ("next task", lambda world: world.lease("r9")),
    ("vote", lambda world: world.submit("r9", "c9")),
    ("export", lambda world: world.feedback.export_page(PROJECT, 10, 5)),
    ("snapshot", lambda world: world.feedback.create_snapshot(PROJECT)),
    ("own votes", lambda world: world.feedback.list_rankings(PROJECT, "r1", None, 10)),
    ("by run", lambda world: world.feedback.list_comparisons(PROJECT, None, "run", 0, 10)),
]


@pytest.mark.parametrize(("name", "call"), HOT_QUERIES, ids=[name for name, _ in HOT_QUERIES])
def test_no_hot_query_scans_a_table(tmp_path: Path, name: str, call: Any) -> None:
    """SQLite's plan of every statement that the call runs."""
    from sqlalchemy import event

    world = World(f"sqlite:///{tmp_path / 'plans.sqlite'}")
    world.project()
    world.add(*(comparison(f"c{i}") for i in range(20)))
    for i in range(8):
        world.submit("r1", f"c{i}")
    statements: list[tuple[str, Any]] = []
    event.listen(
        world.engine,
        "before_cursor_execute",
        lambda conn, cursor, statement, parameters, context, many: statements.append((statement, parameters)),
    )
    call(world)
    asked = [(s, p) for s, p in statements if s.startswith(("SELECT", "UPDATE"))]
    assert asked
    with world.engine.connect() as connection:
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            steps = [row[3] for row in plan]
            assert not any(step.startswith("SCAN") for step in steps), (statement, steps)
            assert not any("TEMP B-TREE" in step and "comparisons" in statement for step in steps), (statement, steps)
    world.close()
