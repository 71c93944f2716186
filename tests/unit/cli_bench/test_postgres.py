"""Where the bench finds its PostgreSQL databases."""

import importlib.util
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from preceptor.cli.bench.postgres import databases
from preceptor.common.errors import FailedPrecondition
from tests.integration.feedback.postgres import PostgresProcess


@pytest.fixture
def no_pgserver(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pgserver" else find(name))


@pytest.mark.usefixtures("no_pgserver")
def test_without_a_server_there_are_none(tmp_path: Path) -> None:
    with databases(None, tmp_path, required=False) as found:
        assert found is None


@pytest.mark.usefixtures("no_pgserver")
def test_a_required_server_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="--postgres-url"), databases(None, tmp_path, required=True):
        pass


def test_two_databases_are_made_on_a_given_server_and_dropped(tmp_path: Path) -> None:
    with PostgresProcess() as server:
        with databases(server.url(), tmp_path, required=True) as found:
            assert found is not None
            names = [make_url(url).database for url in found]
            for url, name in zip(found, names, strict=True):
                with psycopg.connect(url) as connection:
                    assert connection.execute("SELECT current_database()").fetchone() == (name,)
        with psycopg.connect(server.url()) as connection:
            left = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
    assert len(set(names)) == 2
    assert not left & set(names)
