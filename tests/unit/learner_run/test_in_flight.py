"""The adaptive limit against a simulated learner and simulated generators."""

import heapq
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from preceptor.learner.pump.credit import Credit
from preceptor.learner.pump.in_flight import InFlightLimit, LimitBounds, StepObservation

BATCH, GROUP = 16, 2
GROUPS = BATCH // GROUP
TARGET = 0.02


def adaptive(max_staleness: int) -> InFlightLimit:
    return InFlightLimit(LimitBounds(BATCH, (max_staleness + 1) * BATCH, GROUP), max_wait_share=TARGET)


@dataclass
class World:
    """`slots` groups are written at a time, each in `service_s` +- jitter; a step takes `train_s`."""

    max_staleness: int
    slots: int
    service_s: float
    jitter: float = 0.0
    train_s: float = 1.0
    seed: int = 0
    limits: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    walls: list[float] = field(default_factory=list)

    def run(self, limit: InFlightLimit, steps: int) -> "World":
        credit = Credit(BATCH, GROUP, self.max_staleness, checkpoint_every_steps=10**6)
        draw = random.Random(self.seed)
        free_s = [0.0] * self.slots
        sent: list[float] = []
        arrived: list[float] = []
        now_s = taken_s = 0.0

        def issue(trained: int) -> None:
            room = credit.groups(
                open_groups=len(sent) - trained, unacknowledged_rollouts=0, groups_to_go=10**9,
                in_flight_limit=limit.limit,
            )  # fmt: skip
            for _ in range(room):
                begun_s = max(now_s, heapq.heappop(free_s))
                ended_s = begun_s + self.service_s * (1 + self.jitter * draw.uniform(-1, 1))
                heapq.heappush(free_s, ended_s)
                sent.append(now_s)
                arrived.append(ended_s)

        for step in range(steps):
            issue(step * GROUPS)
            mine = slice(step * GROUPS, (step + 1) * GROUPS)
            asked_s, now_s = now_s, max(now_s, *arrived[mine])
            latency_s = max(end - begin for begin, end in zip(sent[mine], arrived[mine], strict=True))
            spare = GROUP * sum(end <= now_s for end in arrived[mine.stop :])
            if step:
                limit.observe(StepObservation(now_s - asked_s, now_s - taken_s, spare, latency_s))
                self.waits.append(now_s - asked_s)
                self.walls.append(now_s - taken_s)
            self.limits.append(limit.limit)
            taken_s = now_s
            issue(step * GROUPS)
            now_s += self.train_s
        return self

    def waiting_share(self) -> float:
        """Over the second half of the steps."""
        half = len(self.waits) // 2
        return sum(self.waits[half:]) / sum(self.walls[half:])


worlds = st.builds(
    dict,
    max_staleness=st.integers(0, 6),
    slots=st.integers(1, 64),
    service_s=st.floats(0.001, 5.0),
    jitter=st.floats(0.0, 0.9),
    seed=st.integers(0, 999),
)


@settings(max_examples=100, deadline=None)
@given(worlds)
def test_the_limit_keeps_its_bounds_and_never_starves_a_learner_that_could_be_kept_busy(world):
    """Against the widest fixed limit in the same world: at most 5 % of the time more is waited."""
    limit = adaptive(world["max_staleness"])
    most = (world["max_staleness"] + 1) * BATCH
    found = World(**world).run(limit, 400)
    widest = World(**world).run(InFlightLimit.fixed(most), 400)
    assert all(BATCH <= value <= most and (value - BATCH) % GROUP == 0 for value in found.limits)
    assert found.waiting_share() <= widest.waiting_share() + 0.05


@settings(max_examples=30, deadline=None)
@given(worlds)
def test_the_limit_settles_near_the_smallest_that_keeps_the_learner_busy(world):
    """Within one batch above the smallest fixed limit that waits no more than the target.

    With generators that have no time to spare no queue is short for good: a random walk.
    """
    assume(world["service_s"] * GROUPS <= 0.85 * world["slots"])
    most = (world["max_staleness"] + 1) * BATCH
    enough = next(
        (n for n in range(BATCH, most + 1, GROUP)
         if World(**world).run(InFlightLimit.fixed(n), 150).waiting_share() <= TARGET),
        most,
    )  # fmt: skip
    found = World(**world).run(adaptive(world["max_staleness"]), 600)
    assert sorted(found.limits[-100:])[50] <= enough + BATCH


def test_it_shrinks_to_one_batch_when_generation_is_too_fast_to_be_missed():
    world = World(max_staleness=3, slots=64, service_s=0.001).run(adaptive(3), 400)
    assert world.limits[-1] == BATCH
    assert world.waiting_share() <= TARGET


def test_it_grows_when_generation_becomes_slow_and_shrinks_again():
    limit = adaptive(4)
    World(max_staleness=4, slots=64, service_s=3.2).run(limit, 60)
    slow = limit.limit
    assert slow > 4 * BATCH, "a group takes more than three steps: four batches must be under way"
    World(max_staleness=4, slots=64, service_s=0.3).run(limit, 400)
    assert limit.limit <= 2 * BATCH < slow


def test_at_staleness_zero_there_is_nothing_to_adapt():
    assert set(World(max_staleness=0, slots=4, service_s=1.0).run(adaptive(0), 50).limits) == {BATCH}


def test_a_fixed_limit_stays():
    assert set(World(max_staleness=2, slots=64, service_s=0.01).run(InFlightLimit.fixed(48), 50).limits) == {48}


def test_a_restart_goes_on_with_the_limit_that_was_found():
    limit = adaptive(4)
    World(max_staleness=4, slots=64, service_s=3.2).run(limit, 60)
    again = adaptive(4)
    again.restore(limit.snapshot())
    assert again.limit == limit.limit
    again.restore({})
    assert again.limit == limit.limit, "a checkpoint from before there was a limit changes nothing"


@pytest.mark.parametrize(("stored", "kept"), [(1, BATCH), (33, 34), (10_000, 3 * BATCH)])
def test_a_restored_limit_obeys_the_bounds_of_today(stored, kept):
    limit = adaptive(2)
    limit.restore({"limit": stored})
    assert limit.limit == kept
