"""Following a loop's events: catching up, going on after a break, and stopping when nobody looks."""

import asyncio
from datetime import timedelta

import pytest

from preceptor.common.errors import NotFound, Unavailable
from preceptor.common.waiting import wait_until_aio
from preceptor.console import feeds as feeds_module
from preceptor.console.feeds import LoopFeeds
from tests.unit.console.doubles import NOW, LoopDouble, event


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds_module, "FIRST_PAUSE_S", 0.01)


def make(loops: LoopDouble, *, max_loops: int = 2, idle_s: float = 60) -> LoopFeeds:
    return LoopFeeds(loops, max_loops=max_loops, idle_s=idle_s, points_per_curve=100)


async def test_the_first_look_waits_for_the_first_events(loops: LoopDouble) -> None:
    loops.events = [event(1, values={"step": 1, "loss": 2.0}), event(2, kind="stage", message="sft done")]
    feed = await make(loops).look("demo")
    await wait_until_aio(lambda: not feed.watching, 5, "the stream to end")
    assert feed.curves.named(["loss"])[0].points == [(1, 2.0)]
    assert [item.message for item in feed.recent] == ["sft done"]


async def test_a_broken_stream_is_taken_up_where_it_broke(loops: LoopDouble) -> None:
    loops.events = [event(n, values={"step": n, "loss": float(n)}) for n in range(1, 6)]
    loops.broken = [(2, Unavailable("gone")), (1, Unavailable("gone"))]
    feeds = make(loops)
    feed = await feeds.look("demo")
    await wait_until_aio(lambda: not feed.watching, 5, "the stream to end")
    assert loops.watched_after == [0, 2, 3]
    assert [x for x, _ in feed.curves.named(["loss"])[0].points] == [1, 2, 3, 4, 5]
    assert feed.problem is None


async def test_a_loop_that_does_not_exist_is_not_asked_for_again(loops: LoopDouble) -> None:
    loops.broken = [(0, NotFound("no such loop"))]
    feed = await make(loops).look("other")
    assert isinstance(feed.problem, NotFound)
    assert not feed.watching


async def test_a_finished_loop_is_asked_again_when_somebody_looks(loops: LoopDouble) -> None:
    feeds = make(loops)
    loops.events = [event(1)]
    feed = await feeds.look("demo")
    await wait_until_aio(lambda: not feed.watching, 5, "the stream to end")
    loops.events = [event(1), event(2, kind="stage", message="rl-2 started")]
    await feeds.look("demo")
    await wait_until_aio(lambda: len(feed.recent) == 1, 5, "the new event")
    assert loops.watched_after == [0, 1]


async def test_nobody_looking_ends_the_watch(loops: LoopDouble) -> None:
    loops.events, loops.live = [event(1)], True
    feeds = make(loops, idle_s=0.1)
    feed = await feeds.look("demo")
    assert feed.watching
    await wait_until_aio(lambda: not feed.watching, 5, "the watch to end")
    assert loops.open_watches == 0


async def test_looking_again_prolongs_the_watch(loops: LoopDouble) -> None:
    loops.events, loops.live = [event(1)], True
    feeds = make(loops, idle_s=0.5)
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < began + 0.8:
        feed = await feeds.look("demo")
        await asyncio.sleep(0.05)
        assert feed.watching
    assert loops.watched_after == [0]
    await feeds.close()


async def test_the_loop_looked_at_longest_ago_goes_first(loops: LoopDouble) -> None:
    loops.events, loops.live = [event(1)], True
    feeds = make(loops, max_loops=2)
    first, second = await feeds.look("a"), await feeds.look("b")
    await feeds.look("a")
    await feeds.look("c")
    assert (first.watching, second.watching, len(feeds)) == (True, False, 2)
    await feeds.close()
    assert loops.open_watches == 0


async def test_minutes_count_from_the_loops_first_event(loops: LoopDouble) -> None:
    loops.events = [
        event(1, stage="collect-1", values={"rankings": 0}),
        event(2, stage="collect-1", time=NOW + timedelta(minutes=3), values={"rankings": 50}),
    ]
    feed = await make(loops).look("demo")
    await wait_until_aio(lambda: not feed.watching, 5, "the stream to end")
    assert feed.curves.named(["rankings"])[0].points == [(0, 0), (3, 50)]
