from dataclasses import replace
from datetime import timedelta

import pytest

from preceptor.common.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    PermissionDenied,
    PreceptorError,
)
from preceptor.feedback.types import AxisRating, Ranking, Retraction, Strength
from tests.unit.feedback.world import PROJECT, START, World, comparison, new_id, ranked, vote


@pytest.fixture(autouse=True)
def _one(world: World) -> None:
    world.project(axes=("helpful",), guidelines="v1")
    world.add(comparison("one"))


def sequences(world: World) -> list[int]:
    mark = world.feedback.settled_mark(PROJECT)
    return [item.ranking.sequence for item in world.feedback.export_page(PROJECT, mark, 0)]


def test_what_was_said_is_what_is_stored(world: World) -> None:
    lease = world.must_lease("r1").lease
    world.after(12)
    body = ranked(
        "ba",
        "c",
        all_bad=True,
        strength=Strength.STRONG,
        axis_ratings=(AxisRating("helpful", "a", 7),),
        comment="é\x00",
    )
    sent = vote("r1", "one", body=body, lease_id=lease.lease_id, client="console/1", shown_at=START + timedelta(0, 2))
    stored = world.votes.submit(sent)
    assert stored == Ranking(
        event_id=sent.event_id,
        project_id=PROJECT,
        comparison_id="one",
        rater_id="r1",
        body=replace(body, tie_groups=(("a", "b"), ("c",))),
        shown_order=lease.shown_order,
        lease_id=lease.lease_id,
        shown_at=START + timedelta(seconds=2),
        submitted_at=START + timedelta(seconds=12),
        guideline_version=1,
        client="console/1",
        sequence=1,
    )
    assert world.feedback.export_page(PROJECT, 1, 0)[0].ranking == stored
    assert world.state("one") == ("complete", 1)


def test_a_repeated_event_returns_the_first_answer(world: World) -> None:
    sent = vote("r1", client="first", body=ranked("ab", "c"))
    stored = world.votes.submit(sent)
    world.after(100)
    assert world.votes.submit(replace(sent, client="second", body=ranked("ba", "c"))) == stored
    assert sequences(world) == [1]
    assert world.state("one") == ("complete", 1)


@pytest.mark.parametrize(
    "change",
    [
        {"body": ranked("c", "b", "a")},
        {"rater_id": "r2"},
        {"body": ranked("a", "b", "c", comment="!")},
        {"body": ranked("abc", strength=Strength.CLEAR)},
    ],
)
def test_the_same_event_with_another_body_is_a_conflict(world: World, change: dict[str, object]) -> None:
    sent = vote("r1")
    world.votes.submit(sent)
    with pytest.raises(AlreadyExists, match="another body") as caught:
        world.votes.submit(replace(sent, **change))
    assert caught.value.field == "event_id"
    assert sequences(world) == [1]


def test_a_second_vote_must_name_the_first(world: World) -> None:
    first = world.submit("r1", "one")
    with pytest.raises(AlreadyExists, match=first.event_id) as caught:
        world.submit("r1", "one", order="cba")
    assert (caught.value.field, caught.value.metadata) == ("supersedes", {"event_id": first.event_id})
    second = world.submit("r1", "one", order="cba", supersedes=first.event_id)
    assert (second.sequence, second.supersedes) == (2, first.event_id)
    assert sequences(world) == [2]
    assert world.state("one") == ("complete", 1)


def test_a_vote_is_superseded_once(world: World) -> None:
    first = world.submit("r1", "one")
    world.submit("r1", "one", order="cba", supersedes=first.event_id)
    with pytest.raises(FailedPrecondition, match="vote in force is") as caught:
        world.submit("r1", "one", order="bca", supersedes=first.event_id)
    assert caught.value.field == "supersedes"


def test_superseding_what_is_not_there(world: World) -> None:
    others = world.submit("r2", "one")
    for target in (new_id(), others.event_id):
        with pytest.raises(FailedPrecondition, match="no vote in force") as caught:
            world.submit("r1", "one", supersedes=target)
        assert caught.value.field == "supersedes"


def test_a_superseded_vote_keeps_order_lease_and_guidelines_of_its_rater(world: World) -> None:
    lease = world.must_lease("r1", 60).lease
    first = world.submit("r1", "one", lease_id=lease.lease_id)
    world.after(3600)
    second = world.submit("r1", "one", order="cba", lease_id=lease.lease_id, supersedes=first.event_id)
    assert (second.shown_order, second.lease_id, second.late) == (first.shown_order, lease.lease_id, False)


def test_retracting_takes_out_of_force_and_opens_the_comparison_again(world: World) -> None:
    lease = world.must_lease("r1").lease
    stored = world.submit("r1", "one", lease_id=lease.lease_id)
    retraction = Retraction(new_id(), stored.event_id, "r1", "misclick")
    assert world.votes.retract(retraction) == 2
    assert world.votes.retract(retraction) == 2
    assert sequences(world) == []
    assert world.state("one") == ("open", 0)
    assert world.lease("r1") is None  # never twice
    assert world.must_lease("r2").comparison.comparison_id == "one"


def test_after_a_retraction_the_rater_may_vote_again(world: World) -> None:
    stored = world.submit("r1", "one")
    world.votes.retract(Retraction(new_id(), stored.event_id, "r1"))
    again = world.submit("r1", "one", order="cba")
    assert (again.supersedes, again.late) == ("", False)
    assert sequences(world) == [3]
    assert world.state("one") == ("complete", 1)


def test_retraction_refusals(world: World) -> None:
    stored = world.submit("r1", "one")
    later = world.submit("r1", "one", order="cba", supersedes=stored.event_id)
    done = Retraction(new_id(), later.event_id, "r1")
    cases: list[tuple[Retraction, type[PreceptorError], str]] = [
        (Retraction(new_id(), new_id(), "r1"), NotFound, "retracts"),
        (Retraction(new_id(), later.event_id, "r2"), PermissionDenied, "retracts"),
        (Retraction(new_id(), stored.event_id, "r1"), FailedPrecondition, "retracts"),  # superseded before
        (Retraction(later.event_id, later.event_id, "r1"), AlreadyExists, "event_id"),  # the id is a vote's
        (Retraction("nonsense", later.event_id, "r1"), InvalidInput, "event_id"),
        (Retraction(new_id(), "nonsense", "r1"), InvalidInput, "retracts"),
    ]
    for retraction, error, field in cases:
        with pytest.raises(error) as caught:
            world.votes.retract(retraction)
        assert caught.value.field == field
    world.votes.retract(done)
    with pytest.raises(FailedPrecondition, match=done.event_id):
        world.votes.retract(Retraction(new_id(), later.event_id, "r1"))
    with pytest.raises(InvalidInput, match="a retraction itself"):
        world.votes.retract(Retraction(new_id(), done.event_id, "r1"))
    with pytest.raises(AlreadyExists):
        world.votes.retract(replace(done, reason="another"))
    with pytest.raises(AlreadyExists):
        world.votes.submit(vote("r1", event_id=done.event_id))


def test_a_late_vote_is_kept_as_overlap(world: World) -> None:
    lost = world.must_lease("r1", 60).lease
    world.after(61)
    taken = world.must_lease("r2", 60).lease
    late = world.submit("r1", "one", lease_id=lost.lease_id)
    assert (late.late, late.shown_order) == (True, lost.shown_order)
    in_time = world.submit("r2", "one", lease_id=taken.lease_id)
    assert not in_time.late
    assert world.state("one") == ("complete", 2)
    assert sequences(world) == [1, 2]


def test_an_expired_lease_that_nobody_took_is_answered_late_in_its_slot(world: World) -> None:
    lease = world.must_lease("r1", 60).lease
    world.after(61)
    assert world.submit("r1", "one", lease_id=lease.lease_id).late
    assert world.state("one") == ("complete", 1)
    assert world.lease("r2") is None


def test_a_vote_without_lease_counts(world: World) -> None:
    imported = world.submit("r1", "one", client="import")
    assert (imported.shown_order, imported.lease_id, imported.late) == ((), "", False)
    assert world.lease("r2") is None


def test_a_vote_finds_its_lease_without_naming_it(world: World) -> None:
    lease = world.must_lease("r1").lease
    assert world.submit("r1", "one").lease_id == lease.lease_id


def test_a_lease_of_another_rater_or_comparison_is_no_excuse(world: World) -> None:
    lease = world.must_lease("r1").lease
    world.add(comparison("two"))
    for rater, target in (("r2", "one"), ("r1", "two")):
        with pytest.raises(NotFound) as caught:
            world.submit(rater, target, lease_id=lease.lease_id)
        assert caught.value.field == "lease_id"
    assert sequences(world) == []


def test_a_vote_keeps_the_guidelines_its_rater_saw(world: World) -> None:
    lease = world.must_lease("r1").lease
    world.project(axes=("helpful",), guidelines="v2", guideline_version=2)
    assert world.submit("r1", "one", lease_id=lease.lease_id).guideline_version == 1
    assert world.submit("r2", "one").guideline_version == 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"event_id": ""}, "event_id"),
        ({"event_id": "not-a-uuid"}, "event_id"),
        ({"event_id": "6AC83336-C7E9-4DD6-A04B-F5DE7894CD2C"}, "event_id"),  # a second spelling would be a second vote
        ({"event_id": "{6ac83336-c7e9-4dd6-a04b-f5de7894cd2c}"}, "event_id"),
        ({"comparison_id": ""}, "comparison_id"),
        ({"comparison_id": "a b"}, "comparison_id"),
        ({"rater_id": "a b"}, "rater_id"),
        ({"supersedes": "x"}, "supersedes"),
        ({"body": ranked("a", "b")}, "body.tie_groups"),
        ({"body": ranked("abc", comment="x" * 8193)}, "body.comment"),
        ({"client": "c" * 1025}, "client"),
        ({"client": "nul\x00"}, "client"),
    ],
)
def test_malformed_votes_change_nothing(world: World, change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        world.votes.submit(replace(vote("r1"), **change))
    assert caught.value.field == field
    assert caught.value.message.startswith(field)
    assert sequences(world) == []
    assert world.state("one") == ("open", 0)


def test_an_unknown_comparison_is_named(world: World) -> None:
    with pytest.raises(NotFound, match="'nothing'") as caught:
        world.submit("r1", "nothing")
    assert caught.value.field == "comparison_id"
