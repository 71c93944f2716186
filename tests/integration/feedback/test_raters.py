"""What is measured of raters, gold items, repeats and updates, on both databases."""

import random
from dataclasses import replace

import pytest

from preceptor.common.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound
from preceptor.feedback.demonstration_service import DemonstrationService
from preceptor.feedback.lease_service import Release
from preceptor.feedback.rater_service import RaterService
from preceptor.feedback.types import ComparisonState, Demonstration, ProjectSettings, Prompt, RaterState
from preceptor.feedback.update_service import ComparisonUpdate, UpdateService
from tests.unit.feedback.world import PROJECT, World, comparison, new_id, ranked, vote


@pytest.fixture
def raters(world: World) -> RaterService:
    return RaterService(world.store, world.feedback, world.clock, world.limits, window=1000)


@pytest.fixture
def updates(world: World) -> UpdateService:
    return UpdateService(world.store, world.feedback, world.limits)


def shared_votes(world: World, careless: str, count: int = 60) -> None:
    """Three raters rank the same comparisons; one answers at random."""
    rng = random.Random(3)
    world.add(*(comparison(f"s{i}", k=2, overlap=3) for i in range(count)))
    for i in range(count):
        for rater in ("r1", "r2", careless):
            order = rng.choice(("ab", "ba")) if rater == careless else "ab" if i % 2 else "ba"
            world.after(5)
            world.submit(rater, f"s{i}", order=order)


def test_a_careless_rater_is_reported_weighed_and_paused(world: World, raters: RaterService) -> None:
    world.project(settings=ProjectSettings(pause_below_reliability=0.85))
    shared_votes(world, "random")
    report = raters.report(PROJECT)
    by_id = {rater.rater_id: rater for rater in report.assessment.raters}
    assert by_id["random"].careless
    assert not by_id["r1"].careless
    assert by_id["r1"].reliability.value > 0.95
    assert report.assessment.agreement.alpha.n == 60
    weights = raters.weights(PROJECT, report.assessment.label_high_water_mark)
    assert weights.of("random") < 0.3 < 0.9 < weights.of("r1")
    [paused] = raters.pause_unreliable(world.feedback.get_project(PROJECT))
    assert paused.rater_id == "random"
    world.add(comparison("next"))
    with pytest.raises(FailedPrecondition, match=r"is paused in 'toy': orders pairs as .* below this project's 85%"):
        world.lease("random")
    assert world.lease("r1") is not None
    assert world.submit("random", "next").sequence > 0  # a vote is never refused


def test_who_was_let_go_on_by_hand_is_not_paused_again(world: World, raters: RaterService) -> None:
    project = world.project(settings=ProjectSettings(pause_below_reliability=0.85))
    shared_votes(world, "random")
    raters.pause_unreliable(project)
    raters.set_state(RaterState(PROJECT, "random", paused=False, reason="talked to them", changed_by="admin"))
    assert raters.pause_unreliable(project) == []
    world.add(comparison("next"))
    assert world.lease("random") is not None
    with pytest.raises(InvalidInput, match="say why"):
        raters.set_state(RaterState(PROJECT, "random", paused=True))


def test_weights_at_a_mark_do_not_change_with_later_votes(world: World, raters: RaterService) -> None:
    world.project()
    shared_votes(world, "random", 30)
    mark = world.feedback.settled_mark(PROJECT)
    before = raters.weights(PROJECT, mark)
    world.add(*(comparison(f"t{i}", k=2, overlap=3) for i in range(20)))
    for i in range(20):
        for rater in ("r1", "r2", "random"):
            world.submit(rater, f"t{i}", order="ab")
    fresh = RaterService(world.store, world.feedback, world.clock, world.limits, window=1000)
    assert fresh.weights(PROJECT, mark) == before
    assert fresh.weights(PROJECT, world.feedback.settled_mark(PROJECT)) != before


def test_gold_items_are_minted_from_agreement_and_served_at_the_rate(
    world: World, raters: RaterService, updates: UpdateService
) -> None:
    world.project()
    world.add(*(comparison(f"s{i}", k=3, overlap=2) for i in range(6)))
    for i in range(6):
        world.submit("r1", f"s{i}", order="abc")
        world.submit("r2", f"s{i}", order="abc" if i < 4 else "cba")
    made = updates.mint_gold(PROJECT)
    assert made.created == 4
    assert updates.mint_gold(PROJECT).created == 0
    gold = world.feedback.get_comparison(made.comparison_ids[0])
    assert gold.gold
    assert gold.gold_answer == (("a",), ("b",), ("c",))
    project = replace(world.feedback.get_project(PROJECT), settings=ProjectSettings(gold_rate=0.5))
    updates.update_project(project, ["settings"])
    world.add(*(comparison(f"plain{i}", k=3) for i in range(40)))
    asked = []
    for _ in range(20):
        offer = world.must_lease("r3")
        assert not offer.comparison.gold
        assert offer.comparison.gold_answer == ()
        asked.append(offer.comparison.comparison_id)
        world.submit("r3", asked[-1], order="abc", lease_id=offer.lease.lease_id)
    served = set(made.comparison_ids) & set(asked)
    assert len(served) == 4
    [rater] = [one for one in raters.report(PROJECT).assessment.raters if one.rater_id == "r3"]
    assert (rater.gold_accuracy.value, rater.gold_accuracy.n) == (1.0, 4)


def test_repeats_come_to_the_same_rater_in_swapped_order_once(world: World, raters: RaterService) -> None:
    world.project(settings=ProjectSettings(repeat_rate=0.5))
    world.add(*(comparison(f"s{i}", k=3) for i in range(40)))
    orders: dict[str, tuple[str, ...]] = {}
    repeats: list[str] = []
    for _ in range(40):
        offer = world.must_lease("r1")
        asked = world.feedback.get_comparison(offer.comparison.comparison_id)
        assert offer.comparison.repeat_of == ""
        if asked.repeat_of:
            repeats.append(asked.repeat_of)
            assert asked.only_rater == "r1"
            assert offer.lease.shown_order == tuple(reversed(orders[asked.repeat_of]))
        orders[asked.comparison_id] = offer.lease.shown_order
        world.submit("r1", asked.comparison_id, order="abc", lease_id=offer.lease.lease_id)
    assert len(repeats) == len(set(repeats)) > 4
    [rater] = raters.report(PROJECT).assessment.raters
    assert (rater.self_consistency.value, rater.self_consistency.n) == (1.0, len(repeats))
    waiting = world.feedback.list_comparisons(PROJECT, ComparisonState.OPEN, "", 0, 100).items
    assert all(not one.repeat_of for one in waiting)


def test_a_repeat_given_back_is_nobodys(world: World) -> None:
    world.project(settings=ProjectSettings(repeat_rate=0.5))
    world.add(*(comparison(f"s{i}", k=2) for i in range(30)))
    for _ in range(30):
        offer = world.must_lease("r1")
        name = offer.comparison.comparison_id
        if world.feedback.get_comparison(name).repeat_of:
            world.leases.release(Release(offer.lease.lease_id, "r1", "boring"))
            assert world.state(name) == ("closed", 0)
            assert world.must_lease("r2").comparison.comparison_id != name
            return
        world.submit("r1", name, order="ab", lease_id=offer.lease.lease_id)
    pytest.fail("no repeat came")


def test_a_project_changes_only_what_is_named(world: World, updates: UpdateService) -> None:
    world.project(title="old", guidelines="one", axes=("helpful",))
    wanted = replace(
        world.feedback.get_project(PROJECT),
        title="new",
        guidelines="two",
        axes=("helpful", "harmless"),
        settings=ProjectSettings(gold_rate=0.1, repeat_rate=0.05),
    )
    changed = updates.update_project(wanted, ["guidelines", "axes", "settings.gold_rate"])
    assert (changed.title, changed.guidelines, changed.guideline_version) == ("old", "two", 2)
    assert changed.axes == ("helpful", "harmless")
    assert changed.settings == ProjectSettings(gold_rate=0.1)
    assert world.feedback.get_project(PROJECT) == changed
    for paths, given, message in (
        ([], wanted, "name what to change"),
        (["project_id"], wanted, "'project_id' cannot be changed"),
        (["settings.colour"], wanted, "cannot be changed"),
        (["axes"], replace(wanted, axes=("harmless",)), "'helpful' is there already"),
        (["settings"], replace(wanted, settings=ProjectSettings(gold_rate=0.7)), "gold_rate: 0.7 is outside 0..0.5"),
    ):
        with pytest.raises(InvalidInput, match=message):
            updates.update_project(given, paths)
    assert world.feedback.get_project(PROJECT) == changed
    with pytest.raises(NotFound):
        updates.update_project(replace(wanted, project_id="other"), ["title"])


def test_overlap_grows_and_shrinks_later(world: World, updates: UpdateService) -> None:
    world.project()
    world.add(comparison("one"), comparison("two"))
    world.submit("r1", "one")
    assert world.state("one") == ("complete", 1)
    changed = updates.update_comparisons(ComparisonUpdate(PROJECT, ("one", "two"), overlap=2, priority=5))
    assert [(c.comparison_id, c.overlap, c.priority, c.state.value) for c in changed] == [
        ("one", 2, 5, "open"),
        ("two", 2, 5, "open"),
    ]
    assert world.must_lease("r2").comparison.comparison_id == "one"
    updates.update_comparisons(ComparisonUpdate(PROJECT, ("one",), overlap=1))
    assert world.state("one") == ("complete", 1)
    updates.update_comparisons(ComparisonUpdate(PROJECT, ("one",), state=ComparisonState.CLOSED))
    assert world.state("one") == ("closed", 1)
    updates.update_comparisons(ComparisonUpdate(PROJECT, ("one",), state=ComparisonState.OPEN, overlap=3))
    assert world.state("one") == ("open", 1)
    with pytest.raises(NotFound, match="no comparison 'three'"):
        updates.update_comparisons(ComparisonUpdate(PROJECT, ("two", "three"), overlap=9))
    assert world.feedback.get_comparison("two").overlap == 2
    for update, message in (
        (ComparisonUpdate(PROJECT, ("one",)), "nothing to change"),
        (ComparisonUpdate(PROJECT, ("one",), overlap=0), "0 is outside 1..100"),
        (ComparisonUpdate(PROJECT, ("one",), state=ComparisonState.COMPLETE), "follows from the rankings"),
    ):
        with pytest.raises(InvalidInput, match=message):
            updates.update_comparisons(update)


def test_a_gold_answer_must_be_an_answer(world: World) -> None:
    world.project()
    for fields, message in (
        ({"gold_answer": (("a",), ("b", "c"))}, "only a gold item has one"),
        ({"gold": True, "gold_answer": (("a",), ("b",))}, "'c' stands in no group"),
        ({"gold": True, "gold_answer": (("a", "b", "c"),)}, "all candidates equal"),
    ):
        with pytest.raises(InvalidInput, match=message):
            world.add(comparison("wrong", **fields))
    world.add(comparison("right", gold=True, gold_answer=(("a",), ("b", "c"))))
    assert world.feedback.get_comparison("right").overlap == 100


def test_demonstrations_are_stored_once_with_the_comparisons_prompt(world: World) -> None:
    desk = DemonstrationService(world.store, world.clock, world.limits)
    world.project(guidelines="Be kind.")
    world.add(comparison("one"))
    given = Demonstration(new_id(), "", "r1", Prompt(), "What I would say\x00", "one")
    stored = desk.submit(given)
    assert (stored.project_id, stored.prompt.text, stored.guideline_version) == (PROJECT, "Please answer one.", 1)
    world.after(60)
    assert desk.submit(given) == stored
    with pytest.raises(AlreadyExists, match="another body"):
        desk.submit(replace(given, text="Something else"))
    with pytest.raises(InvalidInput, match="set text or conversation"):
        desk.submit(Demonstration(new_id(), PROJECT, "r1", Prompt(), "no prompt"))
    with pytest.raises(InvalidInput, match="text: is empty"):
        desk.submit(replace(given, event_id=new_id(), text="  "))
    second = desk.submit(Demonstration(new_id(), PROJECT, "r2", Prompt("Hi"), "Hello"))
    page = desk.list(PROJECT, 0, 1)
    assert page.items == (stored,)
    assert desk.list(PROJECT, int(page.next_key or 0), 1).items == (second,)


def test_a_vote_may_say_when_it_was_given(world: World) -> None:
    world.project()
    world.add(comparison("one"), comparison("two"), comparison("three"))
    given_at = world.now
    world.after(3600)
    stored = world.submit("r1", "one", submitted_at=given_at)
    assert stored.submitted_at == given_at
    assert stored.shown_at == given_at
    ahead = vote("r1", "two", submitted_at=world.now.replace(hour=23))
    with pytest.raises(InvalidInput, match="lies in the future"):
        world.votes.submit(ahead)
    world.after(-60)
    assert world.submit("r1", "three", submitted_at=given_at, body=ranked("ab", "c")).sequence == 2
