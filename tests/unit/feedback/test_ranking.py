import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.common.errors import InvalidInput
from preceptor.feedback.canonical import body_value, digest
from preceptor.feedback.ranking import canonical, check_body
from preceptor.feedback.types import AxisRating, RankingBody
from tests.unit.feedback.world import ranked

AXES = ("helpful", "harmless")


@st.composite
def weak_orders(draw: st.DrawFn) -> RankingBody:
    """Every weak order of 2 to 9 candidates can come out."""
    ids = list("abcdefghi"[: draw(st.integers(2, 9))])
    levels = [draw(st.integers(0, len(ids) - 1)) for _ in ids]
    groups = [[i for i, at in zip(ids, levels, strict=True) if at == level] for level in sorted(set(levels))]
    ratings = draw(
        st.dictionaries(st.tuples(st.sampled_from(AXES), st.sampled_from(ids)), st.integers(1, 7), max_size=4)
    )
    return RankingBody(
        tuple(tuple(draw(st.permutations(group))) for group in groups),
        axis_ratings=tuple(AxisRating(axis, candidate, value) for (axis, candidate), value in ratings.items()),
        comment=draw(st.text(max_size=5)),
    )


def ids_of(body: RankingBody) -> list[str]:
    return [candidate for group in body.tie_groups for candidate in group]


@given(weak_orders())
def test_every_weak_order_is_an_answer(body: RankingBody) -> None:
    check_body(body, ids_of(body), AXES)


@given(weak_orders(), st.randoms())
def test_order_inside_ties_and_among_ratings_says_nothing(body: RankingBody, rng: random.Random) -> None:
    ratings = list(body.axis_ratings)
    rng.shuffle(ratings)
    shuffled = RankingBody(
        tuple(tuple(rng.sample(group, len(group))) for group in body.tie_groups),
        axis_ratings=tuple(ratings),
        comment=body.comment,
    )
    assert canonical(shuffled) == canonical(body)
    assert digest(body_value(shuffled)) == digest(body_value(body))


@given(weak_orders())
def test_canonical_changes_no_meaning_and_is_idempotent(body: RankingBody) -> None:
    form = canonical(body)
    assert [set(group) for group in form.tie_groups] == [set(group) for group in body.tie_groups]
    assert set(form.axis_ratings) == set(body.axis_ratings)
    assert canonical(form) == form


@given(weak_orders())
def test_reversing_the_groups_is_another_vote(body: RankingBody) -> None:
    reverse = RankingBody(body.tie_groups[::-1], axis_ratings=body.axis_ratings, comment=body.comment)
    same = digest(body_value(reverse)) == digest(body_value(body))
    assert same == (len(body.tie_groups) == 1)


@given(weak_orders(), st.data())
def test_leaving_out_any_candidate_is_refused(body: RankingBody, data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(ids_of(body)))
    groups = tuple(kept for group in body.tie_groups if (kept := tuple(c for c in group if c != gone)))
    with pytest.raises(InvalidInput, match=rf"'{gone}' stands in no group") as caught:
        check_body(RankingBody(groups), ids_of(body), AXES)
    assert caught.value.field == "body.tie_groups"


@given(weak_orders(), st.data())
def test_placing_any_candidate_twice_is_refused(body: RankingBody, data: st.DataObject) -> None:
    twice = data.draw(st.sampled_from(ids_of(body)))
    groups = (*body.tie_groups, (twice,))
    with pytest.raises(InvalidInput, match="more than one place") as caught:
        check_body(RankingBody(groups), ids_of(body), AXES)
    assert caught.value.field == f"body.tie_groups[{len(body.tie_groups)}]"


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        (ranked(), "body.tie_groups", "'a', 'b', 'c' stands in no group"),
        (ranked("ab", "", "c"), "body.tie_groups[1]", "empty"),
        (ranked("ab", "x", "c"), "body.tie_groups[1]", "'x' is no candidate of this comparison; it has 'a', 'b', 'c'"),
        (
            ranked("abc", axis_ratings=(AxisRating("funny", "a", 3),)),
            "body.axis_ratings[0].axis",
            "'funny' is no axis of the project; it has 'helpful', 'harmless'",
        ),
        (
            ranked("abc", axis_ratings=(AxisRating("helpful", "z", 3),)),
            "body.axis_ratings[0].candidate_id",
            "'z' is no candidate",
        ),
        (
            ranked("abc", axis_ratings=(AxisRating("helpful", "a", 1), AxisRating("helpful", "b", 8))),
            "body.axis_ratings[1].value",
            "8 is outside 1..7",
        ),
        (ranked("abc", axis_ratings=(AxisRating("helpful", "a", 0),)), "body.axis_ratings[0].value", "0 is outside"),
        (
            ranked("abc", axis_ratings=(AxisRating("helpful", "a", 1), AxisRating("helpful", "a", 2))),
            "body.axis_ratings[1]",
            "rated twice",
        ),
    ],
)
def test_a_refusal_names_the_field_and_what_is_allowed(body: RankingBody, field: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_body(body, "abc", AXES)
    assert caught.value.field == field
    assert caught.value.message.startswith(f"{field}: ")
    assert says in caught.value.message


def test_a_project_without_axes_takes_no_rating() -> None:
    with pytest.raises(InvalidInput, match="it has none"):
        check_body(ranked("abc", axis_ratings=(AxisRating("helpful", "a", 1),)), "abc", ())
