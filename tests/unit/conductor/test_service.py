"""LoopService's use cases against a real database: idempotence, pages, bad input."""

from pathlib import Path

import pytest
import yaml

from preceptor.common.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound
from preceptor.conductor.engine import LoopEngine
from preceptor.conductor.service import Loops
from preceptor.conductor.types import LoopState
from tests.unit.conductor.loop_world import FakeWorld, loop_yaml


class StillEngine(LoopEngine):
    """Starts nothing, so that a loop stays where it was put."""

    def start(self, loop_id: str) -> None:
        """Nothing."""


@pytest.fixture
def fake(tmp_path: Path) -> FakeWorld:
    return FakeWorld(tmp_path)


@pytest.fixture
def loops(fake: FakeWorld) -> Loops:
    world = fake.world()
    return Loops(world.loops, world.registry, StillEngine(world), world.reward)


def test_starting_the_same_loop_again_returns_it(loops: Loops, tmp_path: Path) -> None:
    text = loop_yaml(tmp_path)
    first = loops.start("loop", text)
    assert loops.start("loop", text) == first
    with pytest.raises(AlreadyExists, match="another config"):
        loops.start("loop", text + "# changed\n")


@pytest.mark.parametrize("loop_id", ["", "Loop", "-loop", "a" * 41, "a_b", "a/b"])
def test_a_loop_id_that_run_ids_cannot_be_made_of_is_refused(loops: Loops, tmp_path: Path, loop_id: str) -> None:
    with pytest.raises(InvalidInput, match="loop_id"):
        loops.start(loop_id, loop_yaml(tmp_path))


def test_a_wrong_config_leaves_no_loop_behind(loops: Loops, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"loop:\d+: seed"):
        loops.start("loop", loop_yaml(tmp_path, seed="many"))
    with pytest.raises(NotFound, match="there is no loop 'loop'"):
        loops.get("loop")


def test_pages_cover_everything_once(loops: Loops, tmp_path: Path) -> None:
    for i in range(5):
        loops.start(f"loop-{i}", loop_yaml(tmp_path))
    seen, token = [], ""
    while True:
        page, token = loops.list_loops(2, token)
        seen += [loop.loop_id for loop in page]
        if not token:
            break
    assert sorted(seen) == [f"loop-{i}" for i in range(5)]


@pytest.mark.parametrize(
    ("size", "token", "field"), [(-1, "", "page_size"), (1001, "", "page_size"), (1, "x", "page_t")]
)
def test_a_wrong_page_is_refused(loops: Loops, size: int, token: str, field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        loops.list_loops(size, token)


def test_stopping_is_idempotent_and_a_finished_loop_cannot_be_stopped(
    loops: Loops, fake: FakeWorld, tmp_path: Path
) -> None:
    loops.start("loop", loop_yaml(tmp_path))
    assert loops.stop("loop").stop_requested
    assert loops.stop("loop").stop_requested
    fake.world().loops.finish_loop("loop", LoopState.STOPPED)
    assert loops.stop("loop").state is LoopState.STOPPED
    fake.world().loops.finish_loop("loop", LoopState.SUCCEEDED)
    with pytest.raises(FailedPrecondition, match="has succeeded already"):
        loops.stop("loop")


def test_events_end_with_the_loop(loops: Loops, fake: FakeWorld, tmp_path: Path) -> None:
    loops.start("loop", loop_yaml(tmp_path))
    assert loops.events_after("loop", 0) == ([], False)
    fake.world().loops.add_event("loop", "metric", "sft", "step 1", {"loss": 2.0})
    events, ended = loops.events_after("loop", 0)
    assert (events[0].values, ended) == ({"loss": 2.0}, False)
    fake.world().loops.finish_loop("loop", LoopState.SUCCEEDED)
    [last], ended = loops.events_after("loop", events[0].sequence)
    assert (last.message, ended) == ("loop succeeded", False)
    assert loops.events_after("loop", last.sequence) == ([], True)


def test_an_older_model_can_be_promoted_again_and_one_that_failed_its_gate_cannot(
    fake: FakeWorld, tmp_path: Path
) -> None:
    world = fake.world()
    engine = LoopEngine(world, retry_interval_s=0.001)
    loops = Loops(world.loops, world.registry, StillEngine(world), world.reward)
    loops.start("loop", loop_yaml(tmp_path))
    engine._run("loop")
    assert loops.promote(1, "v2 writes too long").promoted
    assert fake.current == 1
    assert [m.promoted for m in loops.list_reward_models(0, "")[0]] == [False, True]
    with pytest.raises(NotFound, match="version 9"):
        loops.promote(9, "")
    fake.heldout_accuracy = 0.1
    text = yaml.safe_dump({**yaml.safe_load(loop_yaml(tmp_path)), "seed": 2})
    loops.start("other", text)
    engine._run("other")
    refused = loops.list_reward_models(1, "")[0][0]
    with pytest.raises(FailedPrecondition, match="did not pass its gate"):
        loops.promote(refused.reward_model_version, "")
    assert fake.current == 1


def test_lineage_of_what_does_not_exist_is_an_error(loops: Loops) -> None:
    with pytest.raises(NotFound, match="no run 'none'"):
        loops.lineage("none", 0)
    with pytest.raises(InvalidInput, match="policy_version"):
        loops.lineage("none", -1)
    with pytest.raises(InvalidInput, match="event_id"):
        loops.label_lineage("")
