from pathlib import Path
from typing import Any

import pytest

from preceptor.cli.bench import pipeline_real, pipeline_simulated
from preceptor.cli.bench.pipeline import Real, cost_figures, real_figures
from preceptor.cli.bench.pipeline_real import Cores, Phase, Shape, calibrated, phase_of, scaled, split_cores
from preceptor.cli.bench.pipeline_simulated import ControlCost
from preceptor.common.errors import FailedPrecondition, InternalError
from preceptor.learner.run_configs.rl import RlConfig

SHAPE = Shape(width=8, epochs=1, tokens=64)


def rows(*waits: float, seconds: float = 2.0) -> list[dict[str, Any]]:
    return [{"step": i, "time": 100 + seconds * i, "metrics": {"phase/wait_s": wait}} for i, wait in enumerate(waits)]


def test_a_phase_is_the_mean_step_between_its_first_line_and_its_last() -> None:
    phase = phase_of(rows(9.0, 0.5, 0.7), batch_size=32)
    assert phase.step_s == pytest.approx(2.0)
    assert phase.wait_s == pytest.approx(0.6)
    assert phase.work_s == pytest.approx(1.4)
    assert phase.waiting_share == pytest.approx(0.3)
    assert phase.rollouts == 64


def test_a_phase_without_steps_is_an_error() -> None:
    with pytest.raises(InternalError):
        phase_of(rows(1.0), batch_size=32)


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        ([0, 1, 2, 3], Cores([0, 1], [2, 3])),
        ([4, 6], Cores([4], [6])),
        ([0, 1, 2], Cores([0], [1])),
    ],
)
def test_both_sides_get_equal_and_disjoint_cores(cores: list[int], expected: Cores) -> None:
    assert split_cores(cores) == expected


def test_one_core_cannot_be_shared_out() -> None:
    with pytest.raises(FailedPrecondition, match="two cores"):
        split_cores([0])


def test_epochs_and_then_the_width_make_both_sides_cost_the_same() -> None:
    # The generator takes 2 s for a batch; the learner 0.2 s and 0.5 s per epoch.
    one, three = Phase(2.7, 2.0, 32), Phase(3.7, 2.0, 32)
    assert calibrated(one, three, SHAPE) == Shape(width=7, epochs=4, tokens=64)


def test_a_learner_that_costs_more_with_one_epoch_gets_a_narrower_batch() -> None:
    one, three = Phase(3.0, 1.0, 32), Phase(5.0, 1.0, 32)
    assert calibrated(one, three, SHAPE) == Shape(width=4, epochs=1, tokens=64)


def test_a_batch_is_scaled_in_whole_groups_and_never_to_nothing() -> None:
    assert scaled(SHAPE, 1.2).batch_size == 40
    assert scaled(SHAPE, 0.01).batch_size == 4
    assert all(scaled(SHAPE, factor / 10).batch_size % 4 == 0 for factor in range(1, 40))


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_both_modes_are_valid_runs(max_staleness: int) -> None:
    config = RlConfig(**pipeline_real.run_config("bench-equal", Path("model"), SHAPE, max_staleness, 12))
    assert (config.batch_size, config.max_staleness, config.in_flight) == (32, max_staleness, "fixed")


@pytest.mark.parametrize("generators", [1, 3, 10, 100])
def test_a_simulated_system_of_any_size_is_a_valid_run(generators: int) -> None:
    config = RlConfig(**pipeline_simulated.run_config(Path("folder"), generators))
    in_flight = (config.max_staleness + 1) * config.batch_size
    assert in_flight >= 2 * 8 * (generators - 1)


def test_streaming_is_compared_round_by_round() -> None:
    synchronous = [Phase(2.0, 1.0, 64), Phase(4.0, 1.8, 64)]
    streaming = [Phase(1.0, 0.1, 64), Phase(2.5, 0.1, 64)]
    real = Real(SHAPE, synchronous, streaming, SHAPE, Phase(2.2, 1.0, 64), Phase(1.25, 0.1, 64))
    figures = {figure.name: figure for figure in real_figures(real)}
    assert figures["streaming_over_synchronous"].value == pytest.approx(1.8)
    assert figures["streaming_over_synchronous"].holds
    assert figures["streaming_over_synchronous.low"].value == pytest.approx(1.6)
    assert figures["surplus.waiting_share"].value == pytest.approx(0.08)
    assert figures["surplus.waiting_share"].holds is False
    assert figures["surplus.learner_over_generator"].value == pytest.approx(1.2)


@pytest.mark.parametrize(("large", "holds"), [(1.1, True), (1.3, False), (0.7, False)])
def test_control_cost_may_neither_grow_nor_shrink_with_the_system(large: float, holds: bool) -> None:
    small = ControlCost(10, 10.0, 1000, 0, {"pump": 0.4, "rollout": 0.5, "redis": 0.1})
    costs = [small, ControlCost(100, 10.0, 1000, 0, {"pump": 0.4, "rollout": large - 0.5, "redis": 0.1})]
    figures = {figure.name: figure for figure in cost_figures(costs)}
    assert figures["control_10.per_rollout"].value == pytest.approx(1.0)
    assert figures["control_10.rate"].value == pytest.approx(100)
    assert figures["control_cost.largest_over_smallest"].value == pytest.approx(large)
    assert figures["control_cost.largest_over_smallest"].holds is holds
