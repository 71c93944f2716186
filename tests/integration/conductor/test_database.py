"""The conductor's state on a real PostgreSQL and on SQLite: migrations, a whole loop, two writers at once."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sqlalchemy import inspect

from preceptor.conductor.engine import LoopEngine
from preceptor.conductor.loop_config import LoopConfig, plan
from preceptor.conductor.store.database import migrate, open_database
from preceptor.conductor.store.models import Base
from preceptor.conductor.types import LoopState
from tests.integration.feedback.postgres import PostgresProcess
from tests.unit.conductor.loop_world import FakeWorld, loop_yaml


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresProcess]:
    with PostgresProcess() as process:
        yield process


@pytest.fixture(params=["sqlite", "postgresql"])
def fake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeWorld]:
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").empty_database()
    made = FakeWorld(tmp_path, url)
    yield made
    made.engine.dispose()


def create(fake: FakeWorld, tmp_path: Path) -> None:
    text = loop_yaml(tmp_path)
    config = LoopConfig.model_validate(yaml.safe_load(text))
    fake.world().loops.create_loop("loop", text, config.iterations, plan(config))


def test_the_migrations_make_exactly_the_tables_of_the_models(fake: FakeWorld) -> None:
    found = inspect(fake.engine)
    assert set(found.get_table_names()) - {"alembic_version"} == set(Base.metadata.tables)
    for name, table in Base.metadata.tables.items():
        assert {c["name"] for c in found.get_columns(name)} == {c.name for c in table.columns}, name
        assert set(found.get_pk_constraint(name)["constrained_columns"]) == {c.name for c in table.primary_key}, name
        assert {i["name"] for i in found.get_indexes(name)} >= {i.name for i in table.indexes}, name
    migrate(fake.engine)


def test_a_whole_loop_runs_on_it(fake: FakeWorld, tmp_path: Path) -> None:
    create(fake, tmp_path)
    LoopEngine(fake.world(), retry_interval_s=0.001)._run("loop")
    loop = fake.world().loops.get_loop("loop")
    assert (loop.state, loop.error) == (LoopState.SUCCEEDED, "")
    assert loop.created_at.tzinfo is not None
    models, _ = fake.world().registry.models_behind("loop-rl", 6)
    assert [m.reward_model_version for m in models] == [1, 2]
    assert fake.world().registry.touched_by("event-0")[1][0].last_policy_version == 6


def test_numbers_that_are_no_json_are_left_out_of_events(fake: FakeWorld, tmp_path: Path) -> None:
    create(fake, tmp_path)
    values = {"loss": 1.0, "kl": math.nan, "ratio": math.inf}
    fake.world().loops.add_event("loop", "metric", "sft", "step 1", values)
    assert fake.world().loops.events_after("loop", 0)[0].values == {"loss": 1.0}


def test_events_of_two_writers_have_one_order(fake: FakeWorld, tmp_path: Path) -> None:
    create(fake, tmp_path)

    def write(name: str) -> None:
        for i in range(25):
            fake.world().loops.add_event("loop", "metric", name, f"{i}")

    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = fake.world().loops.events_after("loop", 0)
    assert len({e.sequence for e in events}) == 50
    for name in ("a", "b"):
        assert [e.message for e in events if e.stage == name] == [str(i) for i in range(25)]


def test_an_old_database_is_brought_up_to_date_by_opening_it(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'c.sqlite'}")
    migrate(engine)
    migrate(engine)
    assert inspect(engine).has_table("loops")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    engine.dispose()
