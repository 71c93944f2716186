from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.feedback.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(f"sqlite:///{tmp_path / 'votes.sqlite'}")
    yield world
    world.close()
