"""Known implementation details of PPO for RLHF (arXiv 2403.17031), one test each.

test_ppo.py and test_trl.py have the others:
first ratio 1, temperature on the logits, masked whitening, value clip, adaptive KL, critic from the reward model.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from preceptor.learner.algorithms.ppo import Ppo
from preceptor.learner.run_configs import PpoConfig
from preceptor.learner.training.rl_trainer import RlTrainer
from tests.unit.learner.test_ppo import EOS, config, logprobs_of, rollouts


@pytest.fixture
def make(model_dir: Path) -> Any:
    def trainer(**changes: Any) -> RlTrainer:
        return RlTrainer(Ppo(config(**changes)), model_dir, reference_dir=model_dir, seed=7)

    return trainer


def test_dropout_is_off(make: Any):
    """The model's own config asks for 0.5."""
    policy = make().models.policy
    ids = torch.tensor([[5, 6, 7, 8]])
    assert policy.training
    assert torch.equal(policy(input_ids=ids).logits, policy(input_ids=ids).logits)


def test_adam_epsilon_is_1e_5(make: Any):
    trainer = make(optimizer={}, critic_optimizer={})
    assert PpoConfig().optimizer.eps == PpoConfig().critic_optimizer.eps == 1e-5
    assert trainer.models.policy_optimizer.defaults["lr"] == config(optimizer={}).optimizer.learning_rate


def test_the_learning_rate_anneals_linearly(make: Any, model_dir: Path):
    optimizer = {"learning_rate": 1e-3, "schedule": "linear"}
    trainer = make(optimizer=optimizer, total_updates=4, epochs=1, minibatches=1)
    rates = [trainer.step(rollouts(model_dir), policy_version=0).metrics["lr"] for _ in range(4)]
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_gamma_1_lambda_095_clips_02_and_kl_005_are_the_defaults():
    plain = PpoConfig()
    assert (plain.gamma, plain.lam, plain.clip, plain.value_clip) == (1.0, 0.95, 0.2, 0.2)
    assert (plain.kl.coef, plain.kl.estimator, plain.kl.controller, plain.epochs) == (0.05, "k1", "fixed", 4)
    assert (plain.whiten_advantages, plain.whiten_rewards) == (True, False)


def test_the_value_head_starts_at_0_without_a_reward_model(make: Any, model_dir: Path):
    trainer = make()
    assert not trainer.models.critic.head.weight.any()
    assert trainer.step(rollouts(model_dir), policy_version=0).metrics["values/mean"] == 0.0


def test_the_reference_is_frozen(make: Any, model_dir: Path):
    trainer = make()
    before = {name: p.clone() for name, p in trainer.models.reference.named_parameters()}
    trainer.step(rollouts(model_dir), policy_version=0)
    for name, parameter in trainer.models.reference.named_parameters():
        assert not parameter.requires_grad
        assert torch.equal(parameter, before[name])


def test_eos_is_trained_and_padding_is_not(make: Any, model_dir: Path):
    """EOS is a token of the completion; what fills a row up counts nowhere, whatever its id."""
    batch = rollouts(model_dir)
    metrics = make().step(batch, policy_version=0).metrics
    assert any(e.token_ids[-1] == EOS for e in batch)
    assert metrics["tokens/completion"] == sum(len(e.token_ids) for e in batch)


def test_positions_of_a_rollout_do_not_depend_on_the_batch(make: Any, model_dir: Path):
    """Each row's positions count from its own first token, whatever is packed or padded around it."""
    short = dataclasses.replace(rollouts(model_dir)[1], rollout_id="alone")
    batch = [short, *rollouts(model_dir)[2:]]
    trainer = make()
    assert trainer.step(batch, policy_version=0).metrics["mismatch/logprob_abs_max"] < 1e-4
    alone = logprobs_of(model_dir, short.prompt_token_ids, short.token_ids)
    assert list(short.sampling_logprobs) == pytest.approx(alone, abs=1e-6)


def test_the_missing_eos_penalty_is_taken_from_unfinished_rollouts_alone(make: Any, model_dir: Path):
    batch = rollouts(model_dir)
    plain, taken = (
        make(missing_eos_penalty=x, kl={"coef": 0.0}).step(batch, policy_version=0).metrics for x in (0.0, 3.0)
    )
    share = sum(not e.finished for e in batch) / len(batch)
    assert plain["objective/rlhf_reward"] - taken["objective/rlhf_reward"] == pytest.approx(3.0 * share, abs=1e-5)


def test_one_batch_is_used_for_several_epochs_of_minibatches(make: Any, model_dir: Path):
    trainer = make(epochs=3, minibatches=2)
    trainer.step(rollouts(model_dir), policy_version=0)
    assert (trainer.models.policy_steps, trainer.models.critic_steps) == (6, 6)
