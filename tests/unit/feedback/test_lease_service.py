from datetime import timedelta

import pytest

from preceptor.common.completions import Sampling
from preceptor.common.errors import FailedPrecondition, InvalidInput, NotFound
from preceptor.feedback.lease_service import Release
from preceptor.feedback.types import Candidate
from tests.unit.feedback.world import PROJECT, START, World, comparison


@pytest.fixture(autouse=True)
def _project(world: World) -> None:
    world.project(guidelines="Be kind.")


def test_highest_priority_first_then_oldest(world: World) -> None:
    world.add(comparison("old"), comparison("new"), comparison("urgent", priority=5), comparison("least", priority=-1))
    served = []
    while (offer := world.lease("r1")) is not None:
        served.append(offer.comparison.comparison_id)
        world.submit("r1", offer.comparison.comparison_id, lease_id=offer.lease.lease_id)
    assert served == ["urgent", "old", "new", "least"]


def test_a_lease_carries_all_that_a_rater_needs_and_nothing_that_biases(world: World) -> None:
    candidates = tuple(
        Candidate(name, f"answer {name}", policy_version=7, sampling=Sampling(8), rollout_id="g/0/1/0", truncated=True)
        for name in "abc"
    )
    world.add(comparison("one"))
    world.submit("other", "one")
    world.add(
        comparison("two", candidates=candidates, gold=True, control=True, run_id="g", group_id="g/0", repeat_of="one")
    )
    offer = world.must_lease("r1", 60)
    assert (offer.guidelines, offer.lease.guideline_version) == ("Be kind.", 1)
    assert offer.lease.expires_at == START + timedelta(seconds=60)
    shown = offer.comparison
    assert shown.prompt.text == "Please answer two."
    assert shown.candidates == tuple(Candidate(name, f"answer {name}") for name in "abc")
    assert (shown.gold, shown.control, shown.run_id, shown.group_id, shown.repeat_of) == (False, False, "", "", "")
    assert world.feedback.get_comparison("two").gold


def test_the_shown_order_is_drawn_per_rater_and_stored(world: World) -> None:
    world.add(comparison("one", k=4, overlap=60))
    orders = set()
    for i in range(60):
        offer = world.must_lease(f"r{i}")
        assert sorted(offer.lease.shown_order) == list("abcd")
        orders.add(offer.lease.shown_order)
        ranking = world.submit(f"r{i}", "one", order="abcd", lease_id=offer.lease.lease_id)
        assert ranking.shown_order == offer.lease.shown_order
    assert len(orders) > 15  # of 24; 22 expected


def test_asking_again_renews_the_same_lease_in_the_same_order(world: World) -> None:
    world.add(comparison("one"), comparison("two"))
    first = world.must_lease("r1", 60)
    world.after(30)
    again = world.must_lease("r1", 60)
    assert again.lease.lease_id == first.lease.lease_id
    assert again.lease.shown_order == first.lease.shown_order
    assert again.lease.expires_at == START + timedelta(seconds=90)
    world.after(1000)  # expired, and nobody came
    assert world.must_lease("r1", 60).lease.lease_id == first.lease.lease_id


def test_no_more_raters_than_slots(world: World) -> None:
    world.add(comparison("one", overlap=2))
    assert {world.must_lease(r).lease.slot for r in ("r1", "r2")} == {0, 1}
    assert world.lease("r3") is None


def test_an_expired_lease_gives_way_and_is_over(world: World) -> None:
    world.add(comparison("one"))
    lost = world.must_lease("r1", 60)
    world.after(60)
    taken = world.must_lease("r2", 60)
    assert (taken.comparison.comparison_id, taken.lease.slot) == ("one", 0)
    with pytest.raises(FailedPrecondition, match="went to another rater") as caught:
        world.leases.extend(lost.lease.lease_id, "r1", 60)
    assert caught.value.field == "lease_id"
    assert world.lease("r1") is None


def test_a_rater_never_sees_a_comparison_twice(world: World) -> None:
    world.add(comparison("one", overlap=9))
    first = world.must_lease("r1", 60)
    world.submit("r1", "one", lease_id=first.lease.lease_id)
    assert world.lease("r1") is None
    skipped = world.must_lease("r2", 60)
    world.leases.release(Release(skipped.lease.lease_id, "r2", "cannot judge"))
    assert world.lease("r2") is None
    world.submit("r3", "one")  # imported
    assert world.lease("r3") is None


def test_a_deliberate_repeat_is_another_comparison(world: World) -> None:
    world.add(comparison("one"))
    world.submit("r1", "one")
    world.add(comparison("again", repeat_of="one"))
    assert world.must_lease("r1").comparison.comparison_id == "again"


def test_extend_prolongs_and_revives_while_nobody_came(world: World) -> None:
    world.add(comparison("one"))
    lease = world.must_lease("r1", 60).lease
    world.after(30)
    assert world.leases.extend(lease.lease_id, "r1", 60) == START + timedelta(seconds=90)
    world.after(600)
    assert world.leases.extend(lease.lease_id, "r1") == world.now + timedelta(seconds=300)
    assert world.lease("r2") is None


def test_a_skipped_comparison_goes_to_another_rater(world: World) -> None:
    world.add(comparison("one"))
    lease = world.must_lease("r1").lease
    release = Release(lease.lease_id, "r1", "no idea")
    world.leases.release(release)
    world.leases.release(release)  # repeating changes nothing
    assert world.must_lease("r2").comparison.comparison_id == "one"
    with pytest.raises(FailedPrecondition, match="given back"):
        world.leases.extend(lease.lease_id, "r1")


def test_a_flagged_comparison_is_withdrawn(world: World) -> None:
    world.add(comparison("one", overlap=3))
    other = world.must_lease("r2").lease
    world.leases.release(Release(world.must_lease("r1").lease.lease_id, "r1", "private data", flag=True))
    assert world.state("one") == ("closed", 0)
    assert world.lease("r3") is None
    world.submit("r2", "one", lease_id=other.lease_id)  # who was at work may finish; it counts
    assert world.state("one") == ("closed", 1)


def test_leases_of_others_are_not_ones_own(world: World) -> None:
    world.add(comparison("one"))
    lease = world.must_lease("r1").lease
    for act in (
        lambda: world.leases.extend(lease.lease_id, "r2"),
        lambda: world.leases.release(Release(lease.lease_id, "r2")),
        lambda: world.leases.extend("nothing", "r1"),
    ):
        with pytest.raises(NotFound) as caught:
            act()
        assert caught.value.field == "lease_id"


def test_an_answered_lease_cannot_be_given_back(world: World) -> None:
    world.add(comparison("one"))
    lease = world.must_lease("r1").lease
    world.submit("r1", "one", lease_id=lease.lease_id)
    with pytest.raises(FailedPrecondition, match="was answered"):
        world.leases.release(Release(lease.lease_id, "r1"))


def test_projects_are_apart(world: World) -> None:
    world.project("other")
    world.add(comparison("one"), comparison("two", project_id="other"))
    assert world.must_lease("r1").comparison.comparison_id == "one"
    elsewhere = world.lease("r1", project_id="other")
    assert elsewhere is not None
    assert elsewhere.comparison.comparison_id == "two"


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 86_401.0])
def test_lease_seconds_out_of_range(world: World, seconds: float) -> None:
    with pytest.raises(InvalidInput, match=r"outside 0..86400") as caught:
        world.lease("r1", seconds)
    assert caught.value.field == "lease_seconds"


@pytest.mark.parametrize("rater", ["", "ann@example.org", "Ann Smith", "x" * 64, "-x"])
def test_a_rater_is_a_pseudonym(world: World, rater: str) -> None:
    with pytest.raises(InvalidInput, match="pseudonym") as caught:
        world.lease(rater)
    assert caught.value.field == "rater_id"


def test_an_unknown_project_is_named(world: World) -> None:
    with pytest.raises(NotFound, match="'nowhere'"):
        world.leases.lease("nowhere", "r1")
    assert world.lease("r1", project_id=PROJECT) is None
