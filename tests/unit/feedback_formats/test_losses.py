"""An exporter says what its format cannot carry."""

import pytest

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.common.errors import InvalidInput
from preceptor.feedback.formats.exporting import FORMATS, Export
from preceptor.feedback.formats.trl import Shape
from tests.unit.feedback_formats.samples import dialogue, ranked

TEXT = text_pb2.Prompt(text="Hi")


def losses(format_name, *items, shape=Shape.AUTO):
    export = Export(format_name, shape)
    rows = [line for item in items for line in export.lines(item)]
    return len(rows), {loss["what"]: loss["count"] for loss in export.report() if loss["what"] != "votes"}


def test_a_plain_pair_loses_nothing_but_its_provenance():
    assert losses("hh", ranked("a", "b")) == (1, {})
    assert losses("trl-preference", ranked("a", "b")) == (1, {})


@pytest.mark.parametrize("format_name", FORMATS)
def test_only_rankings_hold_who_voted(format_name):
    export = Export(format_name)
    assert list(export.lines(ranked("a", "b")))
    assert [loss["what"] for loss in export.report()][:1] == ([] if format_name == "rankings" else ["votes"])


def test_pairs_lose_ties_and_the_structure_of_a_ranking():
    assert losses("trl-preference", ranked("ab", "c", "d")) == (5, {"ties": 1, "structure": 1})
    assert losses("trl-preference", ranked("abc")) == (0, {"ties": 3, "structure": 1})


def test_what_else_a_vote_says_is_counted():
    item = ranked(
        "a",
        "b",
        all_bad=True,
        strength=fb.PREFERENCE_STRENGTH_STRONG,
        comment="hm",
        axis_ratings=[fb.AxisRating(axis="kind", candidate_id="a", value=3)],
    )
    item.comparison.candidates[0].truncated = True
    expected = {"all_bad": 1, "strength": 1, "comment": 1, "axis_ratings": 1, "truncated": 1}
    assert losses("hh", item) == (1, expected)


def test_a_second_vote_on_a_comparison_is_counted_as_overlap():
    assert losses("hh", ranked("a", "b"), ranked("b", "a")) == (2, {"overlap": 1})


def test_unpaired_rows_carry_all_bad_and_lose_the_middle():
    assert losses("trl-unpaired", ranked("a", "b", all_bad=True)) == (2, {})
    assert losses("trl-unpaired", ranked("a", "bc", "d")) == (2, {"middle": 2, "relative": 1, "structure": 1})
    assert losses("trl-unpaired", ranked("abc")) == (0, {"undecided": 1})


def test_prompt_completion_rows_hold_the_best_alone():
    assert losses("trl-prompt-completion", ranked("ab", "c")) == (2, {"worse": 1})
    assert losses("trl-prompt-completion", ranked("a", "b", all_bad=True)) == (0, {"all_bad_left_out": 1})


def test_a_change_of_shape_is_counted():
    chat, text = ranked("a", "b"), ranked("a", "b", prompt=TEXT)
    text.comparison.comparison_id = "two"
    assert losses("trl-preference", chat, text)[1] == {"mixed": 1}
    assert losses("trl-preference", chat, text, shape=Shape.MESSAGES)[1] == {"text_prompt": 1}
    assert losses("trl-preference", chat, text, shape=Shape.STRING)[1] == {"transcript": 1}
    assert losses("hh", text)[1] == {"text_prompt": 1}


def test_hh_refuses_what_it_would_garble():
    system = dialogue(["Hi"])
    system.conversation.messages[0].role = "system"
    assert losses("hh", ranked("a", "b", prompt=system)) == (0, {"roles": 1})
    empty = ranked("a", "b")
    empty.comparison.candidates[1].text = ""
    assert losses("hh", empty) == (0, {"unreadable": 1})
    blanks = ranked("a", "b")
    blanks.comparison.candidates[1].text = " x "
    assert losses("hh", blanks) == (1, {"turns": 1})


def test_candidates_with_one_text_make_no_pair():
    item = ranked("a", "b")
    item.comparison.candidates[1].text = item.comparison.candidates[0].text
    assert losses("trl-preference", item) == (0, {"same_text": 1})


def test_a_ranking_of_unknown_candidates_is_refused():
    item = ranked("a", "b")
    item.ranking.body.tie_groups[0].candidate_ids[0] = "z"
    with pytest.raises(InvalidInput, match="'z' is no candidate"):
        list(Export("hh").lines(item))
