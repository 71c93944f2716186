"""What is written is read back: rankings whole, other formats as far as they go."""

import json

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.feedback.formats.exporting import FORMATS, Export
from preceptor.feedback.formats.labels import Label
from preceptor.feedback.formats.trl import Shape
from tests.unit.feedback_formats.samples import any_text, dialogue, outcome, rankings, read_text, strict_pairs, words

SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
dialogues = st.lists(words, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2 == 1).map(dialogue)


@SETTINGS
@given(st.lists(rankings(), max_size=3))
def test_an_export_of_rankings_is_lossless(tmp_path, items):
    export = Export("rankings")
    lines = [line for item in items for line in export.lines(item)]
    assert [json_format.Parse(line, fb.RankedComparison()) for line in lines] == items
    assert export.report() == []

    for label, item in zip(read_text(tmp_path, "rankings", lines), items, strict=True):
        assert isinstance(label, Label), label
        expected = fb.Comparison()
        expected.CopyFrom(item.comparison)
        expected.ClearField("created_at")
        assert label.comparison == expected
        assert label.vote.body == item.ranking.body
        assert label.vote.event_id == item.ranking.event_id
        assert label.vote.rater_id == item.ranking.rater_id
        assert label.vote.supersedes == ""  # what it superseded is in no export


@SETTINGS
@given(rankings(), st.sampled_from([Shape.AUTO, Shape.MESSAGES]))
def test_every_strict_pair_survives_trl(tmp_path, item, shape):
    export = Export("trl-preference", shape)
    labels = read_text(tmp_path, "trl-preference", export.lines(item))
    assert all(isinstance(label, Label) for label in labels), labels
    pairs = [outcome(label) for label in labels]
    assert sorted((best, worst) for [best], [worst] in pairs) == strict_pairs(item)
    if shape is Shape.AUTO:
        assert all(label.comparison.prompt == item.comparison.prompt for label in labels)


@SETTINGS
@given(rankings(dialogues, words))
def test_every_strict_pair_of_a_dialogue_survives_hh(tmp_path, item):
    export = Export("hh")
    labels = read_text(tmp_path, "hh", export.lines(item))
    assert sorted((best, worst) for [best], [worst] in map(outcome, labels)) == strict_pairs(item)
    assert all(label.comparison.prompt == item.comparison.prompt for label in labels)
    assert not export.losses.counts.keys() & {"turns", "unreadable", "roles", "text_prompt"}


@SETTINGS
@given(rankings(text=any_text | st.sampled_from(["", " x ", "a\n\nHuman: b", "\n\nAssistant:"])))
def test_what_hh_cannot_hold_is_counted_and_never_misread(tmp_path, item):
    export = Export("hh")
    labels = read_text(tmp_path, "hh", export.lines(item))
    assert all(isinstance(label, Label) for label in labels), labels
    counts = export.losses.counts
    assert len(labels) + counts["unreadable"] + counts["roles"] == len(strict_pairs(item))
    exact = [label for label in labels if tuple(text for [text] in outcome(label)) in strict_pairs(item)]
    assert len(exact) >= len(labels) - counts["turns"]


@SETTINGS
@given(rankings(), st.sampled_from(list(Shape)))
def test_good_and_bad_are_the_best_and_the_worst_group(item, shape):
    rows = [json.loads(line) for line in Export("trl-unpaired", shape).lines(item)]
    text = {c.candidate_id: c.text for c in item.comparison.candidates}
    groups = [[text[name] for name in group.candidate_ids] for group in item.ranking.body.tie_groups]
    if item.ranking.body.all_bad:
        expected = [(name, False) for group in groups for name in group]
    elif len(groups) == 1:
        expected = []
    else:
        expected = [(name, True) for name in groups[0]] + [(name, False) for name in groups[-1]]
    assert [(_text(row["completion"], shape, item), row["label"]) for row in rows] == expected


@SETTINGS
@given(rankings())
def test_completions_to_learn_from_are_the_best_group(item):
    rows = [json.loads(line) for line in Export("trl-prompt-completion", Shape.MESSAGES).lines(item)]
    text = {c.candidate_id: c.text for c in item.comparison.candidates}
    groups = item.ranking.body.tie_groups
    wanted = [] if item.ranking.body.all_bad or len(groups) == 1 else [text[n] for n in groups[0].candidate_ids]
    assert [row["completion"] for row in rows] == [[{"role": "assistant", "content": name}] for name in wanted]


@SETTINGS
@given(rankings(), st.sampled_from(FORMATS))
def test_a_vote_in_no_row_is_accounted_for(item, format_name):
    export = Export(format_name)
    lines = list(export.lines(item))
    assert export.rows == len(lines)
    assert all("\n" not in line for line in lines)
    assert lines or export.report()


@pytest.mark.parametrize("shape", list(Shape))
def test_shapes_of_a_conversation(shape):
    item = fb.RankedComparison(
        comparison=fb.Comparison(
            prompt=dialogue(["Hi", "Yes?", "Why?"]),
            candidates=[fb.Candidate(candidate_id=name, text=name) for name in "ab"],
        ),
        ranking=fb.Ranking(body=fb.RankingBody(tie_groups=[fb.TieGroup(candidate_ids=[name]) for name in "ab"])),
    )
    [row] = [json.loads(line) for line in Export("trl-preference", shape).lines(item)]
    if shape is Shape.STRING:
        assert row == {
            "prompt": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:",
            "chosen": " a",
            "rejected": " b",
        }
    else:
        assert [turn["content"] for turn in row["prompt"]] == ["Hi", "Yes?", "Why?"]
        assert row["chosen"] == [{"role": "assistant", "content": "a"}]


def _text(completion, shape, item):
    if isinstance(completion, list):
        return completion[0]["content"]
    conversation = item.comparison.prompt.WhichOneof("content") == "conversation"
    return completion.removeprefix(" ") if shape is Shape.STRING and conversation else completion
