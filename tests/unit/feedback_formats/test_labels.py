"""Ids follow from the content, so that nothing is added twice."""

from preceptor.feedback.formats.exporting import Export
from preceptor.feedback.formats.importing import read_labels
from preceptor.feedback.formats.labels import ImportOptions, Reading
from tests.unit.feedback_formats.samples import outcome, ranked, read_text

ROWS = [{"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(5)]


def ids(labels):
    return [(label.comparison.comparison_id, label.vote.event_id) for label in labels]


def test_ids_do_not_depend_on_the_place_in_the_file(tmp_path):
    once = ids(read_text(tmp_path, "trl-preference", ROWS))
    turned = ids(read_text(tmp_path, "trl-preference", ["{broken", *reversed(ROWS)])[1:])
    assert turned == once[::-1]
    assert len(set(once)) == 5


def test_ids_depend_on_project_and_rater(tmp_path):
    path = tmp_path / "rows.jsonl"
    [ours] = ids(read_text(tmp_path, "trl-preference", ROWS[:1]))
    [theirs] = ids(read_text(tmp_path, "trl-preference", ROWS[:1], project="other"))
    assert not set(ours) & set(theirs)
    [label] = read_labels(path, "trl-preference", Reading(ImportOptions("toy", rater_id="ann")))
    assert label.comparison.comparison_id == ours[0]
    assert label.vote.event_id != ours[1]


def test_equal_rows_are_votes_of_their_own(tmp_path):
    swapped = {"prompt": "p0", "chosen": "bad 0", "rejected": "good 0"}
    labels = read_text(tmp_path, "trl-preference", [ROWS[0], ROWS[0], swapped])
    assert len({label.comparison.comparison_id for label in labels}) == 3
    assert len({label.vote.event_id for label in labels}) == 3
    assert [outcome(label)[0] for label in labels] == [["good 0"], ["good 0"], ["bad 0"]]


def test_neither_place_nor_id_of_a_candidate_tells_which_was_chosen(tmp_path):
    swapped = [{"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS]
    forth = read_text(tmp_path, "trl-preference", ROWS)
    back = read_text(tmp_path, "trl-preference", swapped)
    assert [label.comparison for label in forth] == [label.comparison for label in back]
    assert [outcome(label) for label in forth] == [outcome(label)[::-1] for label in back]


def test_rankings_keep_their_ids_in_their_project_and_get_new_ones_in_another(tmp_path):
    item = ranked("a", "b")
    item.comparison.repeat_of = "zero"
    lines = list(Export("rankings").lines(item))
    [same] = read_text(tmp_path, "rankings", lines)
    assert ids([same]) == [("one", item.ranking.event_id)]
    [moved] = read_text(tmp_path, "rankings", lines, project="other")
    assert moved.comparison.project_id == "other"
    assert moved.comparison.comparison_id == moved.vote.comparison_id != "one"
    assert moved.vote.event_id != item.ranking.event_id
    item.comparison.comparison_id = item.ranking.comparison_id = "zero"
    item.comparison.repeat_of = ""
    [original] = read_text(tmp_path, "rankings", list(Export("rankings").lines(item)), project="other")
    assert moved.comparison.repeat_of == original.comparison.comparison_id
