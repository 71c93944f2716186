from dataclasses import replace
from datetime import timedelta

import pytest

from preceptor.feedback import leasing
from preceptor.feedback.types import Comparison, ComparisonState, Lease, LeaseState
from tests.unit.feedback.world import START, comparison

LATER = START + timedelta(seconds=60)


def lease(rater: str, slot: int | None, state: LeaseState = LeaseState.HELD, lasts_s: float = 300) -> Lease:
    return Lease(
        f"lease-{rater}", "toy", "one", rater, state, slot, ("a", "b"), 1, START, START + timedelta(0, lasts_s)
    )


def open_for(overlap: int, rankings: int = 0) -> Comparison:
    return comparison(overlap=overlap, rankings=rankings)


def test_a_lease_is_live_until_its_expiry_and_not_at_it() -> None:
    one = lease("x", 0, lasts_s=60)
    assert one.live(LATER - timedelta(microseconds=1))
    assert not one.live(LATER)


@pytest.mark.parametrize(
    ("overlap", "rankings", "leases", "room"),
    [
        (1, 0, [], True),
        (1, 1, [], False),
        (1, 0, [lease("x", 0)], False),
        (1, 0, [lease("x", 0, lasts_s=10)], True),  # expired by then
        (2, 1, [lease("x", 1)], False),
        (2, 0, [lease("x", 0)], True),
        (2, 1, [lease("x", None, LeaseState.SKIPPED)], True),
    ],
)
def test_room_is_overlap_less_votes_and_raters_at_work(
    overlap: int, rankings: int, leases: list[Lease], room: bool
) -> None:
    assert leasing.has_room(open_for(overlap, rankings), leases, LATER) is room


@pytest.mark.parametrize("state", [ComparisonState.COMPLETE, ComparisonState.CLOSED])
def test_only_open_comparisons_have_room(state: ComparisonState) -> None:
    assert not leasing.has_room(replace(open_for(3), state=state), [], LATER)


def test_slots_are_filled_from_below_then_taken_from_who_expired_first() -> None:
    task = open_for(2)
    assert leasing.free_slot(task, [], LATER) == 0
    assert leasing.free_slot(task, [lease("x", 0)], LATER) == 1
    early, earlier = lease("x", 0, lasts_s=20), lease("y", 1, lasts_s=10)
    assert leasing.free_slot(task, [early, earlier], LATER) == 1
    assert leasing.to_lapse([early, earlier], 1) == replace(earlier, state=LeaseState.LAPSED, slot=None)
    assert leasing.to_lapse([early], 1) is None


def test_no_slot_while_all_are_worked_on_or_answered() -> None:
    assert leasing.free_slot(open_for(2), [lease("x", 0), lease("y", 1, LeaseState.ANSWERED)], LATER) is None


@pytest.mark.parametrize(
    ("mine", "others", "rankings", "may"),
    [
        (lease("me", 0), [], 0, True),
        (lease("me", 0, lasts_s=10), [], 0, True),  # expired, and nobody came
        (lease("me", 0, lasts_s=10), [], 1, False),  # a late vote filled the need
        (lease("me", None, LeaseState.LAPSED), [lease("x", 0)], 0, False),
        (lease("me", 0, LeaseState.ANSWERED), [], 0, False),
        (lease("me", None, LeaseState.SKIPPED), [], 0, False),
    ],
)
def test_renewal(mine: Lease, others: list[Lease], rankings: int, may: bool) -> None:
    assert leasing.may_renew(mine, open_for(1, rankings), [mine, *others], LATER) is may


@pytest.mark.parametrize(
    ("mine", "late"),
    [
        (None, False),
        (lease("me", 0), False),
        (lease("me", 0, lasts_s=10), True),
        (lease("me", None, LeaseState.LAPSED), True),
        (lease("me", None, LeaseState.SKIPPED), True),
        (lease("me", 0, LeaseState.ANSWERED, lasts_s=10), False),  # a change of mind has no deadline
    ],
)
def test_lateness(mine: Lease | None, late: bool) -> None:
    assert leasing.is_late(mine, LATER) is late


def test_a_late_vote_takes_a_free_slot_or_none() -> None:
    lapsed = lease("me", None, LeaseState.LAPSED)
    assert leasing.answered(lapsed, open_for(1), [lapsed, lease("x", 0)]).slot is None
    assert leasing.answered(lapsed, open_for(2), [lapsed, lease("x", 0)]).slot == 1
    held = lease("me", 1)
    assert leasing.answered(held, open_for(2), [held]) == replace(held, state=LeaseState.ANSWERED)


def test_a_closed_comparison_stays_closed() -> None:
    assert leasing.state_after(open_for(2), 1) is ComparisonState.OPEN
    assert leasing.state_after(open_for(2), 2) is ComparisonState.COMPLETE
    assert leasing.state_after(open_for(2), 3) is ComparisonState.COMPLETE
    assert leasing.state_after(replace(open_for(2), state=ComparisonState.COMPLETE), 1) is ComparisonState.OPEN
    assert leasing.state_after(replace(open_for(2), state=ComparisonState.CLOSED), 2) is ComparisonState.CLOSED
