"""What an exported ranking's rater_weight does to the loss of a reward model."""

import json
from pathlib import Path

import pytest

from preceptor.common.errors import InvalidInput
from preceptor.learner.data.preferences import load_labels
from preceptor.learner.run_configs.reward import RewardData


def exported(weight: float | None, order: str, event: str) -> str:
    item = {
        "ranking": {
            "event_id": event,
            "comparison_id": "c",
            "body": {"tie_groups": [{"candidate_ids": [one]} for one in order]},
        },
        "comparison": {
            "comparison_id": "c",
            "prompt": {"text": "Hi"},
            "candidates": [{"candidate_id": one, "text": one} for one in "ab"],
        },
    }
    return json.dumps(item if weight is None else item | {"rater_weight": weight})


def labels_of(path: Path, *lines: str) -> tuple[float, ...]:
    path.write_text("\n".join(lines), encoding="utf-8")
    [comparison] = load_labels([RewardData(path=str(path), format="rankings")]).comparisons
    return comparison.ranking_weights


def test_each_ranking_carries_its_raters_weight_and_old_files_count_all_alike(tmp_path: Path) -> None:
    path = tmp_path / "rankings.jsonl"
    assert labels_of(path, exported(0.9, "ab", "e1"), exported(0.0, "ba", "e2")) == (0.9, 0.0)
    assert labels_of(path, exported(None, "ab", "e1"), exported(None, "ba", "e2")) == (1.0, 1.0)
    with pytest.raises(InvalidInput, match=r"rankings\.jsonl:1: .*raterWeight.* is -1"):
        labels_of(path, exported(-1.0, "ab", "e1"))
