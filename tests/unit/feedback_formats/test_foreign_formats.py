"""HH-RLHF, TRL and UltraFeedback as they are found."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preceptor.api.common.v1 import text_pb2
from preceptor.feedback.formats.labels import Label
from tests.unit.feedback_formats.samples import dialogue, outcome, read_text

TURN = {"role": "user", "content": "Hi"}


def reply(text, **more):
    return {"role": "assistant", "content": text, **more}


def hh(chosen, rejected, **more):
    return {"chosen": chosen, "rejected": rejected, **more}


def test_hh_transcripts_become_a_conversation_and_two_candidates(tmp_path):
    before = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant: "
    [label] = read_text(tmp_path, "hh", [hh(before + "Because.", before + "No.")])
    assert label.comparison.prompt == dialogue(["Hi", "Yes?", "Why?"])
    assert outcome(label) == (["Because."], ["No."])
    assert (label.vote.rater_id, label.notes) == ("import", ())


def test_hh_transcripts_that_part_early_keep_the_common_prompt(tmp_path):
    chosen = "\n\nHuman: Hi\n\nAssistant: A\n\nHuman: more\n\nAssistant: good"
    rejected = "\n\nHuman: Hi\n\nAssistant: B\n\nHuman: other\n\nAssistant: bad"
    [label] = read_text(tmp_path, "hh", [hh(chosen, rejected)])
    assert label.comparison.prompt == dialogue(["Hi"])
    assert outcome(label) == (["A\n\nHuman: more\n\nAssistant: good"], ["B\n\nHuman: other\n\nAssistant: bad"])
    assert label.notes == ("the transcripts part before the last reply",)


def test_hh_turns_of_one_role_in_succession_are_joined_and_noted(tmp_path):
    before = "\n\nHuman: Hi\n\nHuman: again\n\nAssistant: "
    [label] = read_text(tmp_path, "hh", [hh(before + "x", before + "y")])
    assert label.comparison.prompt == dialogue(["Hi\n\nagain"])
    assert label.notes == ("two turns of one role in succession, joined",)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (hh("\n\nHuman: Hi\n\nAssistant: x", "\n\nHuman: Hi\n\nAssistant: "), "rejected ends with an empty reply"),
        (hh("\n\nHuman: Hi\n\nAssistant: x", "\n\nHuman: Ho\n\nAssistant: y"), "do not begin with a common prompt"),
        (hh("\n\nHuman: Hi\n\nAssistant: x\n\nHuman: z", "\n\nHuman: Hi\n\nAssistant: y"), "chosen does not end with"),
        (hh("no turns", "none"), "does not start with a turn"),
        (hh(["a"], "b"), "`chosen` must be a string, got a list"),
    ],
)
def test_hh_rows_that_hold_no_pair_are_bad(tmp_path, row, reason):
    [bad] = read_text(tmp_path, "hh", [row])
    assert not isinstance(bad, Label)
    assert reason in bad.reason


def test_columns_that_a_vote_cannot_hold_are_named(tmp_path):
    before = "\n\nHuman: Hi\n\nAssistant: "
    [label] = read_text(tmp_path, "hh", [hh(before + "x", before + "y", source="web")])
    assert label.not_carried == ("column source",)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [TURN], "chosen": [reply("yes")], "rejected": [reply("no")]},
        {"chosen": [TURN, reply("yes")], "rejected": [TURN, reply("no")]},
    ],
    ids=["explicit", "implicit"],
)
def test_trl_conversations(tmp_path, row):
    [label] = read_text(tmp_path, "trl-preference", [row])
    assert label.comparison.prompt == dialogue(["Hi"])
    assert outcome(label) == (["yes"], ["no"])


def test_trl_strings(tmp_path):
    row = {"prompt": "Say: ", "chosen": "", "rejected": "no", "margin": 0.5}
    [label] = read_text(tmp_path, "trl-preference", [row])
    assert label.comparison.prompt == text_pb2.Prompt(text="Say: ")
    assert outcome(label) == ([""], ["no"])
    assert label.not_carried == ("column margin",)


def test_trl_tools_are_named_as_left_behind(tmp_path):
    row = {"prompt": [TURN], "chosen": [reply("a", tool_calls=[])], "rejected": [reply("b")], "tools": []}
    [label] = read_text(tmp_path, "trl-preference", [row])
    assert label.not_carried == ("column tools", "tool_calls of messages")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "a b", "rejected": "a c"}, "`prompt` is missing"),
        ({"chosen": [reply("a")], "rejected": [reply("b")]}, "no turn before the assistant's"),
        ({"chosen": [TURN, reply("a")], "rejected": [TURN, TURN]}, "must be the assistant's"),
        (
            {"chosen": [TURN, reply("a"), TURN, reply("b")], "rejected": [TURN, reply("c"), TURN, reply("b")]},
            "part at turn 2",
        ),
        ({"chosen": [TURN, {"role": "assistant"}], "rejected": [TURN]}, "`chosen[1].content` must be a string"),
        ({"prompt": "Hi", "chosen": [reply("a")], "rejected": [reply("b")]}, "`prompt` must be a list of messages"),
    ],
)
def test_trl_rows_that_hold_no_pair_are_bad(tmp_path, row, reason):
    [bad] = read_text(tmp_path, "trl-preference", [row])
    assert reason in bad.reason


def completion(response, ratings=(), overall=None, **more):
    axes = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    annotations = {axis: {"Rating": value} for axis, value in zip(axes, ratings, strict=False)}
    return {"response": response, "annotations": annotations, "overall_score": overall, **more}


def ultra(*completions, **more):
    return {"instruction": "Hi", "completions": list(completions), **more}


def tie_groups(label):
    text = {c.candidate_id: c.text for c in label.comparison.candidates}
    return ["".join(sorted(text[name] for name in group.candidate_ids)) for group in label.vote.body.tie_groups]


def test_ultrafeedback_ranks_by_mean_rating_with_ties(tmp_path):
    row = ultra(
        completion("a", "5551"), completion("b", "4444"), completion("c", "1111"), completion("d", "5555"), source="x"
    )
    [label] = read_text(tmp_path, "ultrafeedback", [row])
    assert tie_groups(label) == ["d", "ab", "c"]
    rated = {(r.axis, r.candidate_id): r.value for r in label.vote.body.axis_ratings}
    assert len(rated) == 16
    assert rated["helpfulness", "c1"] == 1
    assert label.comparison.prompt == dialogue(["Hi"])
    assert label.not_carried == ("column source", "overall_score of completions")


def test_ultrafeedback_leaves_an_axis_that_does_not_rate_all_out_of_the_order(tmp_path):
    row = ultra(completion("a", ("1", "5")), completion("b", ("3", "N/A")))
    [label] = read_text(tmp_path, "ultrafeedback", [row])
    assert tie_groups(label) == ["b", "a"]
    assert [(r.axis, r.value) for r in label.vote.body.axis_ratings] == [
        ("honesty", 5),
        ("instruction_following", 1),
        ("instruction_following", 3),
    ]


def test_ultrafeedback_falls_back_to_the_overall_score_and_says_so(tmp_path):
    [label] = read_text(tmp_path, "ultrafeedback", [ultra(completion("a", overall=6.5), completion("b", overall="7"))])
    assert tie_groups(label) == ["b", "a"]
    assert label.notes == ("no axis rates all completions: ranked by overall_score",)


def test_the_wrong_tens_of_ultrafeedback_are_noted_and_do_not_count(tmp_path):
    row = ultra(completion("a", "1111", overall=10.0), completion("b", "4444", overall=7.0))
    [label] = read_text(tmp_path, "ultrafeedback", [row])
    assert tie_groups(label) == ["b", "a"]
    assert label.notes == ("completions[0] has overall_score 10 and ratings of at most 2 on average",)


def test_ratings_of_axes_that_the_project_lacks_are_left_out_and_named(tmp_path):
    row = ultra(completion("a", "51"), completion("b", "42"))
    [label] = read_text(tmp_path, "ultrafeedback", [row], axes=frozenset({"honesty"}))
    assert {r.axis for r in label.vote.body.axis_ratings} == {"honesty"}
    assert "axis instruction_following, which the project does not have" in label.not_carried


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (ultra(completion("a", ["6"]), completion("b", ["1"])), "completions[0].annotations.instruction_following"),
        (ultra(completion("a", ["1"]), completion("b", [0])), "Rating` is 0; 1 to 5 or N/A are allowed"),
        (ultra(completion("a", ["good"]), completion("b", ["1"])), "Rating` is 'good'"),
        (ultra(completion("a", [True]), completion("b", ["1"])), "Rating` is True"),
        (ultra(completion("a", overall=11), completion("b", overall=1)), "`completions[0].overall_score` is 11"),
        (ultra(completion("a", overall="x"), completion("b", overall=1)), "1 to 10 is allowed"),
        (ultra(completion("a"), completion("b")), "has no overall_score, and no axis rates all"),
        (ultra(completion("a", ["1"])), "`completions` has 1; 2 to 9 can be ranked"),
        (ultra(*[completion("a", ["1"])] * 10), "`completions` has 10"),
        (ultra({"annotations": {}}, completion("b")), "`completions[0]` must be an object with a `response`"),
        ({"instruction": "", "completions": []}, "`instruction` is empty"),
    ],
)
def test_ultrafeedback_rows_out_of_range_are_bad(tmp_path, row, reason):
    [bad] = read_text(tmp_path, "ultrafeedback", [row])
    assert not isinstance(bad, Label)
    assert reason in bad.reason


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(1, 5), min_size=4, max_size=4), min_size=2, max_size=9))
def test_ultrafeedback_orders_as_the_means_do(tmp_path, ratings):
    row = ultra(*[completion(f"r{i}", [str(value) for value in given]) for i, given in enumerate(ratings)])
    [label] = read_text(tmp_path, "ultrafeedback", [row])
    place = {name: rank for rank, group in enumerate(label.vote.body.tie_groups) for name in group.candidate_ids}
    for i, first in enumerate(ratings):
        for j, second in enumerate(ratings):
            assert (place[f"c{i + 1}"] < place[f"c{j + 1}"]) == (sum(first) > sum(second))
            assert (place[f"c{i + 1}"] == place[f"c{j + 1}"]) == (sum(first) == sum(second))
