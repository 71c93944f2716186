"""One world for all rl runs of a session, and runs in it by name."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.learner.world import Run, World, running_world
from tests.support.models import build_policy

BASIC_RUNS = (
    "plain",
    "ranks",
    "sync",
    "killed",
    "redis",
    "term",
    "service",
    "broken",
    "drop",
    "again",
    "control",
    "switch",
)
RUNS = (*BASIC_RUNS, "changed", "guarded", "evaluated", "recorded")


@pytest.fixture(scope="session")
def policy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_policy(tmp_path_factory.mktemp("policy"), hidden_size=32, layers=1, max_position_embeddings=64)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("world"), RUNS) as world:
        yield world


@pytest.fixture
def make_run(world: World, policy_dir: Path) -> Callable[[str], Run]:
    return lambda name: Run(world, name, policy_dir)
