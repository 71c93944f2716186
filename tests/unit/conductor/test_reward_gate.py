"""What a reward model's card must show before it may serve."""

from datetime import UTC, datetime
from typing import Any

import pytest

from preceptor.conductor.loop_config import GateConfig
from preceptor.conductor.stages.reward import figures_against
from preceptor.conductor.types import RewardModelRecord


def model(version: int = 2, **other: Any) -> RewardModelRecord:
    values: dict[str, Any] = {"heldout_accuracy": 0.7, "noise_ceiling": 0.8, "score_sd": 1.0, **other}
    fixed = {
        "uri": "u",
        "run_id": "r",
        "loop_id": "l",
        "project_id": "p",
        "label_high_water_mark": 1,
        "label_hash": "h",
    }
    return RewardModelRecord(
        reward_model_version=version,
        rankings=100,
        score_mean=0.0,
        promoted=False,
        gate="",
        created_at=datetime.now(UTC),
        **fixed,
        **values,
    )


@pytest.mark.parametrize(
    ("gate", "made", "metrics", "said"),
    [
        ({}, {}, {}, ""),
        ({}, {"heldout_accuracy": 0.5}, {}, "held-out accuracy 0.500 is below 0.55"),
        ({}, {"score_sd": 0.1}, {}, "spread by 0.100"),
        ({"min_ceiling_share": 0.5}, {}, {}, ""),
        ({"min_ceiling_share": 0.7}, {}, {}, "0.67 of the way from chance to the noise ceiling 0.800"),
        ({"min_ceiling_share": 0.7}, {"noise_ceiling": 0.0}, {}, ""),
        ({"max_ece": 0.1}, {}, {"eval/ece": 0.05}, ""),
        ({"max_ece": 0.1}, {}, {"eval/ece": 0.2}, "calibration error 0.200 is above 0.1"),
        ({"max_ece": 0.1}, {}, {}, ""),
        ({"max_accuracy_drop": 0.05}, {"heldout_accuracy": 0.74}, {}, ""),
        ({"max_accuracy_drop": 0.05}, {}, {}, "below that of reward model 1, which serves (0.770)"),
    ],
)
def test_the_gate_says_what_falls_short(
    gate: dict[str, Any], made: dict[str, Any], metrics: dict[str, float], said: str
) -> None:
    serving = model(1, heldout_accuracy=0.77)
    found = figures_against({"metrics": metrics}, model(**made), serving, GateConfig(**gate))
    assert said in found
    assert bool(found) == bool(said)


def test_the_first_model_is_compared_with_none() -> None:
    assert figures_against({}, model(), None, GateConfig(max_accuracy_drop=0.0)) == ""
