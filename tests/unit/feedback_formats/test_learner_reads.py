"""What is exported is what the learner trains on: the same pairs from every format that it reads."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preceptor.feedback.formats.exporting import Export
from preceptor.feedback.formats.trl import Shape
from preceptor.learner.data.preferences import load_labels, pairs_of
from preceptor.learner.run_configs.reward import RewardData
from tests.unit.feedback_formats.samples import dialogue, rankings, strict_pairs, words

SETTINGS = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
dialogues = st.lists(words, min_size=1, max_size=3).filter(lambda turns: len(turns) % 2 == 1).map(dialogue)


@pytest.mark.parametrize(
    ("exported", "read"), [("rankings", "rankings"), ("hh", "hh"), ("trl-preference", "preferences")]
)
@SETTINGS
@given(item=rankings(dialogues, words), shape=st.sampled_from(list(Shape)))
def test_the_learner_finds_every_preference(tmp_path, exported, read, item, shape):
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(line + "\n" for line in Export(exported, shape).lines(item)))
    if not path.read_text():
        assert strict_pairs(item) == []
        return
    labels = load_labels([RewardData(path=str(path), format=read)])
    found = [
        tuple(comparison.candidates[index].text.strip() for index in (pair.first, pair.second))
        for comparison in labels.comparisons
        for ranking in comparison.rankings
        for pair in pairs_of(ranking)
        if pair.target == 1.0
    ]
    assert sorted(pair for pair in found if pair[0] != pair[1]) == strict_pairs(item)
    assert labels.odd_rows == []
