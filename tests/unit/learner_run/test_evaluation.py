"""Evaluation: measures by hand, when and against what it is done, and that its failures do not end the run."""

import json

import pytest
from pydantic import ValidationError

from preceptor.common.errors import Unavailable
from preceptor.learner.evaluation.evaluator import Answer, Evaluator
from preceptor.learner.evaluation.measures import evaluation_metrics, pass_at_k, win_rate
from preceptor.learner.pump.prompts import PromptRecord
from preceptor.learner.run_configs.evaluation import EvaluationConfig
from preceptor.learner.run_configs.rl import RlConfig

PROMPTS = [PromptRecord("a", "x"), PromptRecord("b", "y")]


def test_pass_at_k_by_hand():
    assert pass_at_k(4, 1, 1) == pytest.approx(0.25)
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)  # 1 - C(3,2)/C(4,2)
    assert pass_at_k(4, 0, 4) == 0.0
    assert pass_at_k(4, 2, 3) == 1.0
    with pytest.raises(ValueError, match="k must lie in"):
        pass_at_k(2, 1, 3)


def test_win_rate_counts_all_pairs_of_a_prompt_and_ties_as_half():
    assert win_rate([[1.0, 3.0]], [[2.0, 3.0]]) == pytest.approx((0 + 0 + 1 + 0.5) / 4)
    assert win_rate([[1.0], [5.0]], [[0.0], [9.0]]) == 0.5


def test_metrics_by_hand():
    metrics = evaluation_metrics([[1.0, 0.0], [1.0, 1.0]], [[2, 4], [6, 8]], pass_threshold=1.0)
    assert metrics["eval/reward_mean"] == 0.75
    assert metrics["eval/length"] == 5.0
    assert metrics["eval/reward_sd"] == pytest.approx(0.4330127)
    assert (metrics["eval/pass@1"], metrics["eval/pass@2"]) == (0.75, 1.0)
    assert not any("pass" in name for name in evaluation_metrics([[1.0]], [[1]], pass_threshold=None))


class World:
    """Answers grow with the version; the score is an answer's length."""

    def __init__(self, folder, **changes) -> None:
        self.asked: list[int] = []
        self.broken = False
        values = {"prompts": {"items": ["x", "y"]}, "every_steps": 2, **changes}
        self.evaluator = Evaluator(
            EvaluationConfig.model_validate(values), PROMPTS, folder, ask=self.ask, score=self.score
        )

    def ask(self, prompts, version):
        if self.broken:
            raise Unavailable("nobody there")
        self.asked.append(version)
        return [[Answer("z" * (version + 1), version + 1, True)] for _ in prompts]

    def score(self, prompts, answers):
        assert list(prompts) == PROMPTS
        return [[float(len(answer.text)) for answer in row] for row in answers]


def test_the_newest_version_is_compared_with_the_first(tmp_path):
    world = World(tmp_path)
    world.evaluator.started(0, 0)
    assert world.evaluator.step_done(1, 1, None, {}) == {}
    metrics = world.evaluator.step_done(2, 2, None, {})
    assert world.asked == [0, 2]
    assert metrics["eval/win_rate"] == 1.0
    assert (metrics["eval/reward_mean"], metrics["eval/reference_reward_mean"]) == (3.0, 1.0)
    assert metrics["eval/policy_version"] == 2.0


def test_the_reference_outlives_a_restart(tmp_path):
    World(tmp_path).evaluator.started(0, 0)
    rows = json.loads((tmp_path / "evaluation-reference.json").read_text())
    assert rows[0] == [{"text": "z", "tokens": 1, "finished": True}]
    world = World(tmp_path)
    world.evaluator.started(6, 9)
    assert world.asked == []
    assert world.evaluator.step_done(8, 11, None, {})["eval/win_rate"] == 1.0


def test_without_a_reference_there_is_no_win_rate(tmp_path):
    world = World(tmp_path, reference="none")
    world.evaluator.started(0, 0)
    assert "eval/win_rate" not in world.evaluator.step_done(2, 2, None, {})
    assert world.asked == [2]


def test_failures_are_counted_and_the_run_goes_on(tmp_path):
    world = World(tmp_path)
    world.broken = True
    world.evaluator.started(0, 0)
    assert world.evaluator.step_done(2, 2, None, {}) == {"eval/failures": 1.0}
    assert world.evaluator.step_done(4, 4, None, {}) == {"eval/failures": 2.0}
    world.broken = False
    metrics = world.evaluator.step_done(6, 6, None, {})
    assert "eval/win_rate" not in metrics, "the first version is gone"
    assert metrics["eval/reward_mean"] == 7.0


def test_a_replay_cannot_be_evaluated():
    values = {"kind": "rl", "run_id": "r", "model": "m", "prompts": {"items": ["x"]}, "total_steps": 5, "replay": "f"}
    with pytest.raises(ValidationError, match="with replay there are none"):
        RlConfig.model_validate({**values, "evaluation": {"prompts": {"items": ["y"]}}})
    with pytest.raises(ValidationError, match="with replay there are none"):
        RlConfig.model_validate({**values, "record": "g"})
