"""What a person does to a run, and what its guards do, on real processes."""

import json

import pytest

from preceptor.api.learner.v1 import learner_service_pb2 as learner_pb
from preceptor.clients.learner import LearnerClient
from preceptor.common.errors import InvalidInput
from tests.integration.learner.world import assert_closed

pytestmark = pytest.mark.slow


def events(run, kind: str) -> list[dict]:
    rows = [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


def test_changed_settings_are_recorded_and_survive_a_kill(make_run):
    run = make_run("changed")
    config = run.config(total_steps=12, max_staleness=0, self_check=True, checkpoint={"every_steps": 100, "keep": 2})
    learner = run.learner(config).start()
    with LearnerClient(f"127.0.0.1:{run.port}") as client:
        run.wait_for_step(2, learner)
        values = {"ppo.optimizer.learning_rate": "5e-5", "ppo.kl.coef": "0.3", "max_staleness": "1"}
        answer = client.change_settings(learner_pb.ChangeSettingsRequest(values=values), timeout_s=60)
        assert answer.values["ppo.kl.coef"] == "0.3"
        with pytest.raises(InvalidInput, match=r"group_size cannot be changed.*ppo\.optimizer\.learning_rate"):
            client.change_settings(learner_pb.ChangeSettingsRequest(values={"group_size": "4"}), timeout_s=60)
        run.wait_for_step(answer.step + 2, learner)
    learner.kill()
    with run.learner(config) as learner:
        summary = run.finish(learner)
    assert_closed(summary)
    assert [event["settings"] for event in events(run, "changed")] == [values]
    after = [row["metrics"] for row in run.metrics() if row["step"] > answer.step]
    assert {row["objective/kl_coef"] for row in after} == {0.3}
    assert {row["lr"] for row in after} == {5e-5}
    assert summary["staleness"]["max"] == 1
    assert events(run, "restored"), "the kill came after a checkpoint: the change's own"


def test_guard_rolls_back_and_gives_up_in_the_end(make_run):
    run = make_run("guarded")
    guards = {"length": {"policy": "roll_back", "high": 1.001, "low": 0.999}, "start_steps": 2, "max_roll_backs": 1}
    config = run.config(total_steps=500, guards=guards, checkpoint={"every_steps": 2, "keep": 2}, attempt_deadline_s=3)
    with run.learner(config) as learner:
        assert learner.wait(90) == 1, learner.log_tail()
        last = learner.log().strip().splitlines()[-1]
    assert "rolled back more than 1 times (guards.max_roll_backs); the last reason: " in last
    assert "completions/mean_length" in last
    assert len(events(run, "rolled_back")) == 2
    assert len(events(run, "restored")) == 1
    published = [event["policy_version"] for event in events(run, "published")]
    assert published == sorted(set(published)), "no version was published twice"
    assert run.summary()["reason"] == "GUARD_STOPPED"


def test_held_out_prompts_are_evaluated_and_the_best_checkpoint_is_kept(make_run):
    run = make_run("evaluated")
    evaluation = {"prompts": {"items": ["a warm", "the short"]}, "every_steps": 2, "samples": 2, "pass_threshold": 0.5}
    best = {"every_steps": 2, "keep": 1, "best_metric": "eval/reward_mean"}
    config = run.config(total_steps=6, evaluation=evaluation, checkpoint=best)
    with run.learner(config) as learner:
        assert_closed(run.finish(learner))
    evaluated = {row["step"]: row["metrics"] for row in run.metrics() if "eval/reward_mean" in row["metrics"]}
    assert sorted(evaluated) == [2, 4, 6]
    for step, metrics in evaluated.items():
        assert 0 <= metrics["eval/win_rate"] <= 1
        assert 0 <= metrics["eval/pass@1"] <= metrics["eval/pass@2"] <= 1
        assert 0 < metrics["eval/length"] <= 12
        assert metrics["eval/policy_version"] == step
    kept = json.loads((run.folder / "checkpoints" / "LATEST.json").read_text())["checkpoints"]
    best_value = max(metrics["eval/reward_mean"] for metrics in evaluated.values())
    assert best_value in {evaluated[entry["step"]]["eval/reward_mean"] for entry in kept}
