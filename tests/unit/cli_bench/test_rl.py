"""What `bench rl` makes of two runs' step times."""

import shutil
from pathlib import Path

import pytest

from preceptor.cli.bench.rl import GOALS, case_figures, median_step_s, our_config, samples_per_s
from preceptor.cli.bench.rl_ours import Timed, timed
from preceptor.cli.bench.rl_walks import compared, walk_cases
from preceptor.common.errors import NotFound
from preceptor.learner.run_configs.rl import RlConfig

JOB = {
    "model": "m",
    "reward": "r.py:f",
    "prompts": ["w1 w2"],
    "batch": 16,
    "group": 8,
    "completion_tokens": 4,
    "steps": 6,
    "learning_rate": 1e-5,
}


def row(step: int, time: float, **metrics: float) -> dict:
    return {"step": step, "time": time, "metrics": {"objective/scores": 0.5, **metrics}}


def test_rates_leave_the_warm_up_out():
    assert samples_per_s([100.0, 101.0, 102.0, 103.0, 105.0], 10) == pytest.approx(20 / 3)
    assert median_step_s([5.0, 6.0, 8.0, 9.0]) == 1.0


def test_time_counts_from_the_first_request():
    rows = [row(1, 1010.0, **{"phase/wait_s": 4.0, "phase/train_s": 1.0}), row(2, 1012.0, **{"phase/wait_s": 0.5})]
    found = timed(rows, 1000.0)
    assert (found.seconds, found.start_s) == ([5.0, 7.0], 5.0)
    assert found.phases["phase/wait_s"] == 0.5


def test_a_case_compares_both_and_says_where_our_time_goes():
    ours = timed([row(n, 1000.0 + n, **{"phase/all_s": 1.0}) for n in range(6)], 900.0)
    theirs = {"trl": "1.12.0", "seconds": [4.0 * n for n in range(6)]}
    figures = {figure.name: figure for figure in case_figures("ppo.1_epochs", 3.0, 16, ours, theirs)}
    assert figures["ppo.1_epochs.rate_over_trl"].value == pytest.approx(4.0)
    assert figures["ppo.1_epochs.rate_over_trl"].holds
    assert figures["ppo.1_epochs.median_step_over_trl"].value == pytest.approx(4.0)
    assert figures["ppo.1_epochs.trl_1.12.0"].value == pytest.approx(4.0)
    assert figures["ppo.1_epochs.ours.phase/all_s"].value == 1.0


@pytest.mark.parametrize("algorithm", sorted(GOALS))
def test_our_side_is_a_config_that_is_accepted(algorithm):
    config = RlConfig.model_validate(our_config(JOB, algorithm, 1))
    assert (config.algorithm, config.update.epochs, config.update.minibatches) == (algorithm, 1, 1)
    assert config.update.kl.wanted


def test_walks_count_to_where_trl_ended():
    ours = Timed(seconds=[1.0, 2.0, 3.0, 4.0], scores=[0.2, 0.9, 1.0, 1.0], start_s=9.0, phases={})
    theirs = {"seconds": [4.0, 8.0, 12.0], "scores": [0.3, 0.6, 0.9]}
    found = compared(ours, theirs, 128)
    assert found["trl"] == pytest.approx(0.6)
    assert (found["our_samples"], found["our_seconds"]) == (128 * 3, 3.0)
    assert (found["trl_samples"], found["trl_seconds"]) == (128 * 3, 12.0)


def test_a_side_that_never_gets_there_counts_in_full():
    ours = Timed(seconds=[1.0, 2.0], scores=[0.1, 0.1], start_s=9.0, phases={})
    assert compared(ours, {"seconds": [5.0], "scores": [0.9]}, 8)["our_samples"] == 16


def test_walks_need_their_data(tmp_path):
    with pytest.raises(NotFound, match="follow tests/benchmarks/randomwalks/README"):
        walk_cases(tmp_path)
    source = Path(__file__).parents[2] / "benchmarks" / "randomwalks"
    for name in ("rl.yaml", "reward.py"):
        shutil.copy(source / name, tmp_path)
    (tmp_path / "data" / "model").mkdir(parents=True)
    (tmp_path / "data" / "prompts.jsonl").write_text('{"prompt": "b", "prompt_id": "b"}\n')
    config, job = walk_cases(tmp_path)
    assert RlConfig.model_validate(config).batch_size == job["batch"] == 128
    assert (job["epochs"], job["kl"], job["completion_tokens"]) == (4, 0.0, 9)
