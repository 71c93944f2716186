"""The same worker with a real generator (vLLM) and a real reward model: nothing is doubled."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from preceptor.api.common.v1 import text_pb2
from preceptor.api.reward.v1 import reward_service_pb2 as reward_pb
from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.clients.reward import RewardClient
from tests.integration.generation.support import Generator, policies
from tests.integration.rollout.conftest import Stack
from tests.support.models import build_reward_model
from tests.support.waiting import wait_until


def counted(stack: Stack, metric: str) -> float:
    """A counter of the worker, 0 before its first count."""
    rows = [line for line in stack.worker.http("/metrics")[1].splitlines() if line.startswith(f"{metric} ")]
    return float(rows[0].rpartition(" ")[2]) if rows else 0.0


def check_logprobs(policy: Path, groups: list[rollout_pb2.RolloutGroup]) -> None:
    """Every recorded sampling_logprob is the policy's own, also where another process went on."""
    model = AutoModelForCausalLM.from_pretrained(policy).eval()
    for group in groups:
        prompt = list(group.prompt_token_ids)
        for rollout in group.rollouts:
            ids = list(rollout.completion.token_ids)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].float()
            expected = torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
            recorded = torch.tensor(list(rollout.completion.sampling_logprobs))
            assert float((expected - recorded).abs().mean()) < 1e-3


pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_groups_are_written_by_vllm_and_scored_by_a_reward_model_across_a_killed_generator(
    stack: Stack, tmp_path: Path
) -> None:
    model = build_reward_model(tmp_path / "artifacts" / "reward-models" / "000001")
    card = {"reward_model_version": 1, "score_mean": 0.1, "score_sd": 2.0}
    (model / "card.json").write_text(json.dumps(card))
    client = RewardClient(f"127.0.0.1:{stack.reward.env['PRECEPTOR_REWARD_PORT']}")
    client.load_model(
        reward_pb.LoadModelRequest(name="rm", kind=reward_pb.REWARD_KIND_MODEL, uri="reward-models/000001"),
        timeout_s=120,
    )
    folder = tmp_path / "generator"
    folder.mkdir()
    generator = Generator(folder, stack.redis_process.url)
    policy = policies(tmp_path, 1)[0]
    generator.publish(3, policy)
    with generator.process:
        generator.process.wait_ready(180)
        for index in range(24):
            sampling = text_pb2.SamplingParameters(max_tokens=250, temperature=1.0)
            stack.send(index, deadline_s=200, reward_model="rm", sampling=sampling)
        # Eight groups of four at a time: each completion has streamed some pieces, and none can be at its end.
        wait_until(lambda: counted(stack, "preceptor_rollout_streamed_tokens_total") > 2200, 60, "tokens to come")
        generator.process.kill()
        generator.process.start().wait_ready(180)
        groups = stack.wait_for(24, 120)
    reclaimed = counted(stack, 'preceptor_rollout_continued_tokens_total{cause="reclaimed"}')
    assert reclaimed >= 1000, "what the killed generator had streamed was continued"
    check_logprobs(policy, groups)
    assert [group.failure for group in groups if group.HasField("failure")] == []
    for group in groups:
        assert (group.reward_model, group.reward_model_version, len(group.rollouts)) == ("rm", 1, 4)
        items = [
            reward_pb.ScoreItem(
                prompt=group.prompt,
                completion=rollout.completion.text,
                truncated=rollout.completion.finish_reason == text_pb2.FINISH_REASON_LENGTH,
            )
            for rollout in group.rollouts
        ]
        again = client.score(reward_pb.ScoreRequest(model="rm", items=items))
        assert [rollout.score for rollout in group.rollouts] == pytest.approx(
            [r.score for r in again.results], abs=1e-4
        )
        assert {span.policy_version for r in group.rollouts for span in r.completion.version_spans} == {3}
