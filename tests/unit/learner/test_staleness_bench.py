"""The staleness matrix: its configs are valid, and its table says what the runs measured."""

import pytest

from preceptor.learner.run_configs.rl import RlConfig
from tests.benchmarks import staleness


def test_every_config_of_the_matrix_is_valid() -> None:
    for bound in staleness.STALENESS:
        for correction in staleness.CORRECTIONS:
            config = RlConfig(**staleness.config_of("walks", bound, correction, 7, 40))
            assert (config.max_staleness, config.ppo.correction.kind, config.seed) == (bound, correction, 7)
            assert config.in_flight == "fixed"


def test_a_run_is_told_by_windows_of_five_steps() -> None:
    scores = [0.1 * step for step in range(20)]
    row = staleness.measured([{"objective/scores": score, "staleness/mean": 2.0} for score in scores])
    assert row["optimality_after_10"] == pytest.approx(0.7)
    assert row["optimality_at_end"] == pytest.approx(1.7)
    assert row["steps_to_learn"] == 12  # the mean of steps 8 to 12 is 0.9
    assert row["staleness_mean"] == 2.0


def test_the_table_has_a_line_per_setting_with_mean_and_range_over_seeds() -> None:
    row = {"max_staleness": 1, "correction": "truncated", "steps": 40, "staleness_mean": 1.0, "steps_to_learn": 9}
    row |= {"optimality_after_10": 0.9, "optimality_after_20": 0.95, "optimality_at_end": 0.98}
    other = row | {"optimality_at_end": 0.94, "steps_to_learn": None}
    *_, line = staleness.table([row, other]).splitlines()
    assert (
        line
        == "| 1 | truncated | 1.0 | 0.900 (0.900-0.900) | 0.950 (0.950-0.950) | 0.960 (0.940-0.980) | 9, > 40 | 2 |"
    )
