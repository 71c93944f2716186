from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.feedback.postgres import PostgresProcess
from tests.unit.feedback.world import World


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresProcess]:
    with PostgresProcess() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'votes.sqlite'}"
    server: PostgresProcess = request.getfixturevalue("postgres")
    return server.empty_database()


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    world = World(database_url)
    yield world
    world.close()
