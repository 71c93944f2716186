"""RlTrainer: one test per known implementation detail, exact resume, guards."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from preceptor.common.errors import DataLoss, InvalidInput
from preceptor.learner.algorithms.ppo import Ppo
from preceptor.learner.models.scalar import new_reward_model
from preceptor.learner.run_configs import PpoConfig
from preceptor.learner.training.rl_trainer import RlTrainer
from preceptor.learner.training.update_targets import ScoreMoments
from preceptor.learner.types import Experience

EOS = 1


def config(**changes: Any) -> PpoConfig:
    base: dict[str, Any] = {
        "batch_size": 8,
        "epochs": 2,
        "minibatches": 2,
        "critic": "policy",
        "optimizer": {"learning_rate": 1e-3},
        "critic_optimizer": {"learning_rate": 1e-3},
    }
    return PpoConfig.model_validate(base | changes)


@pytest.fixture
def make(model_dir: Path) -> Any:
    def trainer(**changes: Any) -> RlTrainer:
        return RlTrainer(Ppo(config(**changes)), model_dir, reference_dir=model_dir, seed=7)

    return trainer


def logprobs_of(directory: Path, prompt: Sequence[int], ids: Sequence[int], temperature: float = 1.0) -> list[float]:
    """log p of each completion token, by transformers, without padding, in float64 after the logits."""
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].double() / temperature
    log_p = torch.log_softmax(logits, dim=-1)
    return [float(log_p[len(prompt) - 1 + t, token]) for t, token in enumerate(ids)]


def rollouts(
    directory: Path, *, seed: int = 0, count: int = 8, temperature: float = 1.0, version: int = 0
) -> list[Experience]:
    """Random completions of 1 to 9 tokens with their true sampling_logprobs."""
    draws = np.random.default_rng(seed)
    batch = []
    for i in range(count):
        prompt = tuple(draws.integers(2, 90, size=draws.integers(2, 6)).tolist())
        ids = tuple(draws.integers(2, 90, size=draws.integers(1, 9)).tolist())
        finished = bool(i % 3)
        ids = (*ids, EOS) if finished else ids
        batch.append(
            Experience(
                rollout_id=f"run/{i // 2}/0/{i % 2}",
                group_id=f"run/{i // 2}",
                issue_index=i // 2,
                prompt_token_ids=prompt,
                token_ids=ids,
                sampling_logprobs=tuple(logprobs_of(directory, prompt, ids, temperature)),
                version_spans=((version, 0, len(ids)),),
                score=float(draws.normal()),
                finished=finished,
                reward_model_version=1,
            )
        )
    return batch


def weights(trainer: RlTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.models.policy.named_parameters()}


def unchanged(trainer: RlTrainer, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(p, before[name]) for name, p in trainer.models.policy.named_parameters())


def test_the_first_minibatch_ratio_is_one_on_policy(make: Any, model_dir: Path):
    metrics = make().step(rollouts(model_dir), policy_version=0).metrics
    assert metrics["mismatch/ratio_max_dev_first_minibatch"] < 1e-3
    assert metrics["mismatch/logprob_abs_mean"] < 1e-5
    assert metrics["mismatch/ess"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["correction/weight_mean"] == pytest.approx(1.0, abs=1e-4)


def test_kl_is_zero_while_policy_and_reference_are_one(make: Any, model_dir: Path):
    metrics = make().step(rollouts(model_dir), policy_version=0).metrics
    assert metrics["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["objective/non_score_reward"] == pytest.approx(0.0, abs=1e-5)


def test_logits_are_divided_by_the_sampling_temperature(make: Any, model_dir: Path):
    batch = rollouts(model_dir, temperature=0.7)
    assert make(temperature=0.7).step(batch, policy_version=0).metrics["mismatch/logprob_abs_mean"] < 1e-5
    assert make(temperature=1.0).step(batch, policy_version=0).metrics["mismatch/logprob_abs_mean"] > 0.1


def test_one_update_by_hand_in_numpy(make: Any, model_dir: Path):
    """Zero critic, one epoch, one minibatch: at ratio 1 the loss is minus the mean of weight times advantage."""
    batch = rollouts(model_dir)
    shifted = [
        dataclasses.replace(e, sampling_logprobs=tuple(x - 0.4 * (k % 3) for k, x in enumerate(e.sampling_logprobs)))
        for e in batch
    ]
    settings = {"epochs": 1, "minibatches": 1, "missing_eos_penalty": 1.0, "gamma": 0.9, "lam": 0.8}
    metrics = make(**settings, correction={"kind": "truncated", "cap": 2.0}).step(shifted, policy_version=0).metrics
    advantages, factors, returns = [], [], []
    for experience in shifted:
        length = len(experience.token_ids)
        rewards = np.zeros(length)
        rewards[-1] = experience.score - (0.0 if experience.finished else 1.0)
        # values are 0, so delta is the reward and returns are the advantages
        own = [sum((0.9 * 0.8) ** (k - t) * rewards[k] for k in range(t, length)) for t in range(length)]
        advantages += own
        returns += own
        factors += [min(math.exp(0.4 * (k % 3)), 2.0) for k in range(length)]
    whitened = (np.array(advantages) - np.mean(advantages)) / np.sqrt(np.var(advantages) + 1e-8)
    assert metrics["loss/policy_avg"] == pytest.approx(-np.mean(np.array(factors) * whitened), abs=1e-4)
    assert metrics["loss/value_avg"] == pytest.approx(0.5 * np.mean(np.square(returns)), rel=1e-4)
    assert metrics["returns/mean"] == pytest.approx(np.mean(returns), abs=1e-5)
    assert metrics["correction/weight_max"] == pytest.approx(2.0)
    assert metrics["objective/scores"] == pytest.approx(np.mean([e.score for e in batch]), abs=1e-6)
    penalty = np.mean([0.0 if e.finished else 1.0 for e in batch])
    assert metrics["objective/rlhf_reward"] == pytest.approx(metrics["objective/scores"] - penalty, abs=1e-4)


def test_advantages_are_whitened_so_that_the_first_loss_vanishes(make: Any, model_dir: Path):
    metrics = make(epochs=1, minibatches=1).step(rollouts(model_dir), policy_version=0).metrics
    assert metrics["loss/policy_avg"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("budget", [64, 100], ids=["row by row", "some rows"])
def test_gradient_accumulation_changes_nothing(make: Any, model_dir: Path, budget: int):
    whole, parts = make(), make(micro_batch_tokens=budget)
    batch = rollouts(model_dir)
    first, second = whole.step(batch, policy_version=0).metrics, parts.step(batch, policy_version=0).metrics
    assert first["loss/policy_avg"] == pytest.approx(second["loss/policy_avg"], abs=1e-4)
    for name, parameter in whole.models.policy.named_parameters():
        torch.testing.assert_close(parameter, dict(parts.models.policy.named_parameters())[name], atol=2e-4, rtol=1e-3)


def chances(model: Any) -> torch.Tensor:
    """The next-token distribution after the prompt (5, 6)."""
    return model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)


def test_a_rewarded_token_becomes_likelier(make: Any, model_dir: Path):
    trainer = make(epochs=4, kl={"coef": 0.0}, optimizer={"learning_rate": 3e-3})
    good, bad = 40, 41
    for step in range(6):
        batch = []
        for i in range(8):
            token = good if i % 2 else bad
            scores = trainer.models.policy(input_ids=torch.tensor([[5, 6]])).logits[0, -1].double().log_softmax(-1)
            batch.append(
                Experience(f"r{i}", f"g{i}", i, (5, 6), (token,), (float(scores[token].detach()),), ((step, 0, 1),),
                           float(token == good), True, 1)
            )  # fmt: skip
        trainer.step(batch, policy_version=step)
    with torch.no_grad():
        after, before = (chances(m) for m in (trainer.models.policy, AutoModelForCausalLM.from_pretrained(model_dir)))
    assert float(after[good]) > 3 * float(before[good])
    assert float(after[bad]) < float(before[bad])


def test_stale_tokens_are_left_out_of_the_mismatch_and_counted_as_stale(make: Any, model_dir: Path):
    old = rollouts(model_dir, version=3)
    mixed = [dataclasses.replace(e, sampling_logprobs=tuple(x - 1.0 for x in e.sampling_logprobs)) for e in old[:4]] + [
        dataclasses.replace(e, version_spans=((5, 0, len(e.token_ids)),)) for e in old[4:]
    ]
    metrics = make().step(mixed, policy_version=5).metrics
    assert metrics["staleness/mean"] == pytest.approx(1.0)
    assert metrics["staleness/max"] == 2.0
    assert metrics["mismatch/logprob_abs_mean"] < 1e-5
    assert metrics["mismatch/ess"] < 0.9


def test_without_a_current_token_there_is_no_mismatch_to_report(make: Any, model_dir: Path):
    metrics = make().step(rollouts(model_dir, version=0), policy_version=2).metrics
    assert "mismatch/logprob_abs_mean" not in metrics
    assert metrics["mismatch/current_token_share"] == 0.0


def test_icepop_masks_tokens_that_engine_and_learner_disagree_on(make: Any, model_dir: Path):
    batch = rollouts(model_dir)
    odd = dataclasses.replace(batch[0], sampling_logprobs=tuple(x - 4.0 for x in batch[0].sampling_logprobs))
    metrics = make(correction={"kind": "icepop"}).step([odd, *batch[1:]], policy_version=0).metrics
    tokens = [len(e.token_ids) for e in batch]
    assert metrics["correction/masked_share"] == pytest.approx(tokens[0] / sum(tokens), abs=1e-6)


def test_weights_scale_a_rollouts_part_in_the_policy_loss(make: Any, model_dir: Path):
    batch = rollouts(model_dir)
    options = {"epochs": 1, "minibatches": 1, "whiten_advantages": False, "optimizer": {"learning_rate": 0.0}}
    whole = make(**options).step(batch, policy_version=0).metrics["loss/policy_avg"]
    alone = []
    for place in range(2):
        others = [dataclasses.replace(e, weight=0.0) if i != place else e for i, e in enumerate(batch)]
        alone.append(make(**options).step(others, policy_version=0).metrics["loss/policy_avg"])
    halved = [dataclasses.replace(e, weight=0.5) if i < 2 else e for i, e in enumerate(batch)]
    metrics = make(**options).step(halved, policy_version=0).metrics
    assert all(part != 0 for part in alone)
    assert metrics["loss/policy_avg"] == pytest.approx(whole - 0.5 * sum(alone), abs=1e-5)
    assert metrics["staleness/weight_mean"] == pytest.approx((2 * 0.5 + 6) / 8)


def test_critic_only_leaves_the_policy_alone(make: Any, model_dir: Path):
    trainer = make()
    before = weights(trainer)
    result = trainer.step(rollouts(model_dir), policy_version=0, critic_only=True)
    assert unchanged(trainer, before)
    assert trainer.models.critic.head.weight.abs().sum() > 0
    assert "loss/policy_avg" not in result.metrics


def test_the_critic_may_start_as_the_reward_model(model_dir: Path, tmp_path: Path):
    new_reward_model(model_dir, seed=0).save_pretrained(tmp_path)
    (tmp_path / "card.json").write_text(json.dumps({"score_mean": 0.0, "score_sd": 1.0}))
    trainer = RlTrainer(
        Ppo(config(critic="reward_model")), model_dir, reference_dir=model_dir, critic_dir=tmp_path, seed=0
    )
    assert trainer.step(rollouts(model_dir), policy_version=0).metrics["values/mean"] != 0.0


def test_without_a_kl_coefficient_no_reference_is_held(make: Any, model_dir: Path):
    trainer = make(kl={"coef": 0.0})
    assert trainer.models.reference is None
    assert "objective/kl" not in trainer.step(rollouts(model_dir), policy_version=0).metrics


def test_the_adaptive_controller_moves_the_coefficient(make: Any, model_dir: Path):
    trainer = make(kl={"coef": 0.1, "controller": "adaptive", "target": 5.0, "horizon": 80})
    metrics = trainer.step(rollouts(model_dir), policy_version=0).metrics
    assert metrics["objective/kl_coef"] == 0.1
    assert trainer.kl_coef == pytest.approx(0.1 * (1 - 0.2 * 8 / 80))  # observed 0: the error is clipped at -0.2


def test_epochs_end_early_beyond_the_target_kl(make: Any, model_dir: Path):
    metrics = (
        make(epochs=4, target_kl=1e-9, optimizer={"learning_rate": 1e-2})
        .step(rollouts(model_dir), policy_version=0)
        .metrics
    )
    assert metrics["policy/early_stop_epoch"] == 1.0


@pytest.mark.parametrize(
    ("change", "named"),
    [({"score": math.nan}, "score"), ({"sampling_logprobs": None}, "sampling_logprobs")],
    ids=["score", "sampling_logprobs"],
)
def test_nan_skips_the_update_and_names_the_rollouts(make: Any, model_dir: Path, change: dict[str, Any], named: str):
    trainer, batch = make(), rollouts(model_dir)
    before = weights(trainer)
    if change.get("sampling_logprobs", 0) is None:
        change = {"sampling_logprobs": (math.nan,) * len(batch[3].token_ids)}
    batch[3] = dataclasses.replace(batch[3], **change)
    result = trainer.step(batch, policy_version=0)
    assert result.skipped
    assert result.reasons == [f"{named} is not finite in rollouts run/1/0/1"]
    assert unchanged(trainer, before)
    assert not trainer.step(rollouts(model_dir), policy_version=0).skipped


def test_a_gradient_that_overflows_skips_the_minibatch(make: Any, model_dir: Path):
    trainer = make(minibatches=1, epochs=1)
    before = weights(trainer)
    trainer.models.policy.get_input_embeddings().weight.register_hook(lambda grad: grad * math.inf)
    result = trainer.step(rollouts(model_dir), policy_version=0)
    assert result.skipped
    assert "policy gradient is not finite in a minibatch of rollouts run/" in result.reasons[0]
    assert unchanged(trainer, before)
    assert result.metrics["guard/skipped"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_logprobs": (0.0,)}, "sampling_logprobs for"),
        ({"version_spans": ((0, 0, 1),)}, "cover 1 of"),
        ({"version_spans": ((9, 0, 4),)}, "newer than policy_version"),
        ({"prompt_token_ids": ()}, "no prompt"),
    ],
)
def test_a_malformed_rollout_is_refused_by_name(make: Any, model_dir: Path, changes: dict[str, Any], message: str):
    batch = [e for e in rollouts(model_dir) if len(e.token_ids) >= 4][:1]
    with pytest.raises(InvalidInput, match=f"rollout {batch[0].rollout_id}.*{message}"):
        make().step([dataclasses.replace(batch[0], **changes)], policy_version=0)


def comparable(metrics: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if not k.startswith("time/") and "per_second" not in k}


def test_a_saved_trainer_goes_on_exactly_as_if_it_had_never_stopped(make: Any, model_dir: Path, tmp_path: Path):
    changes = {
        "score_scale": "running",
        "kl": {"coef": 0.1, "controller": "adaptive"},
        "total_updates": 5,
        "optimizer": {"learning_rate": 1e-3, "schedule": "linear", "warmup_steps": 2},
    }
    batches = [rollouts(model_dir, seed=s, version=s) for s in range(5)]
    whole = make(**changes)
    expected = [comparable(whole.step(b, policy_version=s).metrics) for s, b in enumerate(batches)]
    first = make(**changes)
    got = [comparable(first.step(b, policy_version=s).metrics) for s, b in enumerate(batches[:3])]
    first.save(tmp_path)
    second = make(**changes)
    second.load(tmp_path)
    got += [comparable(second.step(b, policy_version=s + 3).metrics) for s, b in enumerate(batches[3:])]
    assert got == expected
    for name, parameter in whole.models.critic.named_parameters():
        assert torch.equal(parameter, dict(second.models.critic.named_parameters())[name])


def test_a_torn_checkpoint_is_named(make: Any, tmp_path: Path):
    trainer = make()
    trainer.save(tmp_path)
    for name in ("__0_0.distcp", "state.pt"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataLoss, match="cannot be read"):
            trainer.load(tmp_path)


def test_the_export_loads_in_transformers_with_the_same_logprobs(make: Any, model_dir: Path, tmp_path: Path):
    trainer = make()
    trainer.step(rollouts(model_dir), policy_version=0)
    trainer.export(tmp_path)
    batch = rollouts(tmp_path, version=1)
    assert trainer.step(batch, policy_version=1).metrics["mismatch/logprob_abs_mean"] < 1e-5
    assert (tmp_path / "tokenizer_config.json").is_file()


def test_learning_rate_zero_changes_nothing_and_every_ratio_stays_one(make: Any, model_dir: Path):
    """The self-check that trlX's users asked for (#107, #508)."""
    zero = {"learning_rate": 0.0}
    trainer = make(epochs=3, optimizer=zero, critic_optimizer=zero)
    before = weights(trainer)
    metrics = trainer.step(rollouts(model_dir), policy_version=0).metrics
    assert unchanged(trainer, before)
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["policy/approxkl_avg"] < 1e-9
    assert metrics["policy/clipfrac_avg"] == 0.0


def test_a_reward_model_of_another_vocabulary_is_refused_as_critic(model_dir: Path, tmp_path: Path):
    model = new_reward_model(model_dir, seed=0)
    model.resize_token_embeddings(50)
    model.save_pretrained(tmp_path)
    with pytest.raises(InvalidInput, match="critic has a vocabulary of 50"):
        RlTrainer(Ppo(config(critic="reward_model")), model_dir, reference_dir=model_dir, critic_dir=tmp_path)


def test_running_moments_equal_numpys():
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=90)
    moments = ScoreMoments()
    assert moments.sd == 1.0
    for part in np.split(draws, 9):
        moments.update(torch.from_numpy(part))
    assert moments.mean == pytest.approx(draws.mean())
    assert moments.sd == pytest.approx(draws.std(ddof=1))
