"""Reward models that change while an rl run goes on, and a run steered through LearnerService."""

import pytest

from preceptor.api.learner.v1 import learner_service_pb2 as learner_pb
from preceptor.api.reward.v1 import reward_service_pb2 as reward_pb
from preceptor.clients.learner import LearnerClient
from preceptor.clients.reward import RewardClient
from preceptor.common.waiting import wait_until
from tests.integration.learner.world import assert_closed
from tests.support.models import build_reward_model

pytestmark = pytest.mark.slow


def load(client: RewardClient, folder, version: int) -> None:
    client.load_model(
        reward_pb.LoadModelRequest(
            name="rm", kind=reward_pb.REWARD_KIND_MODEL, uri=folder.as_uri(), reward_model_version=version
        )
    )


def test_reward_model_switch_keeps_one_version_per_batch_and_warms_the_critic(world, make_run, tmp_path):
    run = make_run("switch")
    first = build_reward_model(tmp_path / "rm1", seed=1, hidden_size=32, layers=1)
    second = build_reward_model(tmp_path / "rm2", seed=2, hidden_size=32, layers=1)
    with RewardClient(world.reward_address) as client:
        load(client, first, 1)
        config = run.config(
            reward={"name": "rm"}, critic_init=str(first), critic_warmup_steps_after_switch=2, total_steps=14
        )
        with run.learner(config) as learner:
            run.wait_for_step(4, learner)
            load(client, second, 2)
            summary = run.finish(learner)
    assert_closed(summary)
    rows = [row["metrics"] for row in run.metrics()]
    versions = [int(row["reward_model_version"]) for row in rows]
    switch = versions.index(2)
    assert versions == [1] * switch + [2] * (14 - switch)
    critic_only = [int(row["critic_only"]) for row in rows]
    assert critic_only == [0] * switch + [1, 1] + [0] * (12 - switch)
    assert summary["reward_model_version"] == 2


def test_run_obeys_pause_checkpoint_and_stop(make_run):
    run = make_run("control")
    with run.learner(run.config(total_steps=10_000, checkpoint={"every_steps": 1000, "keep": 2})) as learner:
        run.wait_for_step(2, learner)
        with LearnerClient(f"127.0.0.1:{run.port}") as client:
            client.pause(learner_pb.PauseRequest())

            def status() -> learner_pb.GetStatusResponse:
                return client.status(learner_pb.GetStatusRequest())

            wait_until(lambda: status().state == learner_pb.RUN_STATE_PAUSED, 20, "the pause")
            paused_at = status().step
            saved = client.checkpoint(learner_pb.CheckpointRequest(), timeout_s=20)
            assert saved.step == paused_at == status().step
            client.resume(learner_pb.ResumeRequest())
            wait_until(lambda: status().step > paused_at, 20, "the run to go on")
            client.stop(learner_pb.StopRequest(reason="seen enough"))
        summary = run.finish(learner)
    assert summary["outcome"] == "stopped"
    assert_closed(summary)
    assert summary["groups"]["abandoned"] > 0, "what was in flight was given up"
    assert (run.folder / "model" / "model.safetensors").is_file()
