"""A rollout that three policy versions wrote, from the stream through the pump to the update."""

from pathlib import Path

import numpy as np
import pytest
import redis
import torch
from transformers import AutoModelForCausalLM

from preceptor.api.common.v1 import text_pb2
from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.common.redis_keys import ROLLOUT_FIELD, rollout_stream
from preceptor.learner.adapters.rollout_stream import RolloutStream
from preceptor.learner.algorithms.ppo import Ppo
from preceptor.learner.pump.attempts import AttemptLimits, SendOrder
from preceptor.learner.pump.credit import Credit
from preceptor.learner.pump.ledger import Ledger
from preceptor.learner.pump.lineage import PolicyLineage
from preceptor.learner.pump.ports import PumpSettings
from preceptor.learner.pump.pump import Pump
from preceptor.learner.pump.results import Batch
from preceptor.learner.pump.staleness import WeightDown
from preceptor.learner.run_configs import PpoConfig
from preceptor.learner.training.rl_trainer import RlTrainer
from tests.support.redis import RedisProcess

RUN, VERSION, CAP = "mixed", 5, 2.0
PROMPT, TOKENS = (10, 11, 12), (20, 21, 22, 23, 24, 25)
RECORDED = (-1.0, -9.0, -2.5, -3.0, -4.0, -7.5)  # of versions 2, 4 and 5; no learner would compute them again
SPANS = ((2, 0, 2), (4, 2, 3), (5, 3, 6))


class Quiet:
    def send(self, order: SendOrder, min_policy_version: int) -> None:
        """The groups are in the stream already."""


def group(index: int) -> rollout_pb2.RolloutGroup:
    completion = text_pb2.Completion(
        token_ids=TOKENS,
        sampling_logprobs=RECORDED,
        finish_reason=text_pb2.FINISH_REASON_STOP,
        version_spans=[text_pb2.VersionSpan(policy_version=v, begin=b, end=e) for v, b, e in SPANS],
    )
    rollouts = [
        rollout_pb2.Rollout(rollout_id=f"{RUN}/{index}/1/{i}", completion=completion, score=float(i)) for i in range(2)
    ]
    return rollout_pb2.RolloutGroup(
        run_id=RUN, group_id=f"{RUN}/{index}", attempt=1, issue_index=index, prompt_token_ids=PROMPT,
        rollouts=rollouts, reward_model_version=1,
    )  # fmt: skip


def take_batch(server: RedisProcess) -> Batch:
    credit = Credit(batch_size=4, group_size=2, max_staleness=1, checkpoint_every_steps=1)
    lineage = PolicyLineage()
    for version in range(1, VERSION + 1):
        lineage.advance(version)
    stream = RolloutStream(server.url, RUN, group_size=2)
    settings = PumpSettings(
        RUN, groups_per_batch=2, group_size=2, total_steps=9, max_consecutive_abandoned=4, read_timeout_s=0.1
    )
    ledger = Ledger(AttemptLimits(60.0, 2), max_adopted_groups=8)
    pump = Pump(settings, credit, ledger, lineage, WeightDown(1, decay=0.5), stream, Quiet())
    pump.start()
    try:
        batch = pump.take(20)
    finally:
        pump.stop()
        stream.close()
    assert batch is not None
    return batch


def learner_logprobs(policy: Path) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(policy).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*PROMPT, *TOKENS]])).logits[0].double()
    return torch.log_softmax(logits, -1)[range(2, 8), TOKENS].numpy()


def test_a_rollout_over_three_versions_is_trained_with_what_was_recorded(tmp_path: Path, policy_dir: Path):
    with RedisProcess(tmp_path / "redis") as server:
        with redis.Redis.from_url(server.url) as client:
            for index in range(2):
                client.xadd(rollout_stream(RUN), {ROLLOUT_FIELD: group(index).SerializeToString()})
        batch = take_batch(server)
    assert batch.staleness == (3, 3), "of the oldest token: version 2 at step 5"
    assert all(experience.version_spans == SPANS for experience in batch.experiences)
    assert all(np.allclose(experience.sampling_logprobs, RECORDED) for experience in batch.experiences)

    config = PpoConfig.model_validate(
        {"batch_size": 4, "minibatches": 1, "critic": "policy", "correction": {"kind": "truncated", "cap": CAP}}
    )
    trainer = RlTrainer(Ppo(config), policy_dir, reference_dir=policy_dir)
    metrics = trainer.step(batch.experiences, policy_version=VERSION).metrics
    weights = np.exp(learner_logprobs(policy_dir) - np.array(RECORDED))
    assert metrics["correction/weight_mean"] == pytest.approx(np.minimum(weights, CAP).mean(), rel=1e-4)
    assert metrics["mismatch/ess"] == pytest.approx(weights.sum() ** 2 / (6 * (weights**2).sum()), rel=1e-4)
    assert metrics["staleness/max"] == 3.0
    assert metrics["staleness/weight_mean"] == 0.25
    assert metrics["mismatch/current_token_share"] == 0.0, "the last tokens sit on older keys and values"
