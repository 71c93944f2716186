"""Shares of a worker's slots between runs, and what becomes of tasks that must wait."""

import time
from collections import Counter, deque

from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.common.errors import Unavailable
from preceptor.rollout.fairness import FairShare
from preceptor.rollout.turnstile import Turnstile


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def task(run_id: str, index: int = 0, *, deadline_s: float | None = None) -> rollout_pb2.CollectTask:
    message = rollout_pb2.CollectTask(run_id=run_id, group_id=f"{run_id}/{index}", issue_index=index)
    if deadline_s is not None:
        message.deadline.FromNanoseconds(round((time.time() + deadline_s) * 1e9))
    return message


def enter_all(share: FairShare, run_id: str) -> int:
    return next(count for count in range(999) if not share.try_enter(run_id))


def test_a_run_alone_has_every_slot() -> None:
    assert enter_all(FairShare(8), "a") == 8


def test_a_quota_holds_also_for_a_run_alone() -> None:
    assert enter_all(FairShare(8, 0.5), "a") == 4
    assert enter_all(FairShare(8, 0.01), "a") == 1, "one slot it always has"


def test_room_is_left_for_a_run_that_is_known_to_live() -> None:
    share = FairShare(8)
    share.expect(["a", "b"])
    assert enter_all(share, "a") == 7
    assert share.try_enter("b")
    assert share.held() == {"a": 7, "b": 1}


def test_what_another_run_held_lately_is_kept_free_for_it_up_to_an_equal_share() -> None:
    share = FairShare(8)
    for _ in range(2):
        assert share.try_enter("b")
    for _ in range(2):
        share.leave("b")
    assert enter_all(share, "a") == 5, "room for three of b's"
    assert enter_all(share, "b") == 4, "an equal share"


def test_room_is_given_back_when_the_other_run_is_gone() -> None:
    clock = Clock()
    share = FairShare(8, clock=clock)
    share.expect(["b"])
    assert enter_all(share, "a") == 7
    clock.at = 31
    assert share.try_enter("a")
    assert share.held() == {"a": 8}


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(2, 5))
def test_no_run_starves_however_the_others_flood(slots: int, runs: int) -> None:
    """A queue in which every run but one has hundreds of tasks, a worker of so many slots, tasks of one second each."""
    if slots < runs:
        return  # fewer slots than runs: nothing can be kept free for each
    clock = Clock()
    share = FairShare(slots, clock=clock)
    names = [f"run-{i}" for i in range(runs)]
    share.expect(names)
    queue = deque(name for _ in range(100) for name in names[1:])
    queue.append(names[0])  # the last in a long queue
    running: list[str] = []
    parked: Counter[str] = Counter()
    served_at = None
    for second in range(400):
        clock.at = float(second)
        for name in running:
            share.leave(name)
            if parked[name]:
                parked[name] -= 1
                queue.append(name)
        running = []
        while queue and len(running) < slots:
            name = queue.popleft()
            if share.try_enter(name):
                running.append(name)
            else:
                parked[name] += 1
        if names[0] in running:
            served_at = second
            break
    assert served_at == 0, "in the first round, not after the flood"


class World:
    """A queue and a parking lot in memory."""

    def __init__(self, share: FairShare, live: tuple[str, ...] = ()) -> None:
        self.queue: list[str] = []
        self.parked: dict[str, deque[rollout_pb2.CollectTask]] = {}
        self.broken = False
        self.live = live
        self.turnstile = Turnstile(share, self, lambda task: self.queue.append(task.group_id), self._live)

    def _live(self) -> tuple[str, ...]:
        if self.broken:
            raise Unavailable("Redis does not answer")
        return self.live

    def park(self, task: rollout_pb2.CollectTask) -> None:
        if self.broken:
            raise Unavailable("Redis does not answer")
        self.parked.setdefault(task.run_id, deque()).append(task)

    def take(self, run_id: str) -> rollout_pb2.CollectTask | None:
        if self.broken:
            raise Unavailable("Redis does not answer")
        waiting = self.parked.get(run_id)
        return waiting.popleft() if waiting else None


def test_a_task_beyond_the_share_is_parked_and_comes_back_when_one_ends() -> None:
    world = World(FairShare(2, 0.5))
    assert world.turnstile.enter(task("a", 0))
    assert not world.turnstile.enter(task("a", 1, deadline_s=60))
    assert world.queue == []
    world.turnstile.leave("a")
    assert world.queue == ["a/1"]


def test_what_another_worker_parked_is_brought_back_by_the_sweep() -> None:
    world = World(FairShare(4), live=("a", "b"))
    for index in range(9):
        world.park(task("a", index))
    world.turnstile.sweep()
    assert world.queue == ["a/0", "a/1", "a/2"], "as many as there is room for, one slot being left to b"


def test_a_parked_task_that_the_pump_has_given_up_is_dropped() -> None:
    world = World(FairShare(2, 0.5))
    assert world.turnstile.enter(task("a", 0))
    assert not world.turnstile.enter(task("a", 1, deadline_s=-1))
    world.turnstile.leave("a")
    assert world.queue == []


def test_without_redis_a_task_runs_beyond_the_share() -> None:
    share = FairShare(2, 0.5)
    world = World(share)
    assert world.turnstile.enter(task("a", 0))
    world.broken = True
    assert world.turnstile.enter(task("a", 1))
    assert share.held() == {"a": 2}
    world.turnstile.sweep()
    world.turnstile.leave("a")
    world.turnstile.leave("a")
    assert share.held() == {}
