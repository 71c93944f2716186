"""What one PPO update aims at: rewards, advantages, returns and importance weights, fixed before its first epoch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor.learner.rl.advantages import gae
from preceptor.learner.rl.corrections import Correction, icepop_weights, truncated_weights
from preceptor.learner.rl.kl import kl_k1, kl_k2, kl_k3
from preceptor.learner.rl.masking import masked_sum, masked_whiten
from preceptor.learner.rl.rewards import ShapedRewards, shape_scores, token_rewards
from preceptor.learner.run_configs.ppo import CorrectionConfig, PpoConfig
from preceptor.learner.training.ppo_batch import RolloutBatch

_ESTIMATORS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


@dataclass(frozen=True)
class Forwards:
    """Before the update, [B, T] each, no gradient: of the policy, of the reference (None: no KL is wanted), of the
    critic; and the policy's entropy.
    """

    old_logprobs: Tensor
    ref_logprobs: Tensor | None
    values: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class Targets:
    """advantages (whitened, if asked), returns: [B, T]. correction: weights and what still counts.

    kl_sums: [B], k1 summed over a sequence; None without a reference. shaped: per-token rewards and their KL part.
    """

    advantages: Tensor
    returns: Tensor
    correction: Correction
    shaped: ShapedRewards
    kl_sums: Tensor | None


@dataclass
class ScoreMoments:
    """Running mean and variance of raw scores (Welford, batch form)."""

    count: float = 0.0
    mean: float = 0.0
    square_sum: float = 0.0

    def update(self, scores: Tensor) -> None:
        """Takes in scores [B]."""
        values = scores.double()
        count, mean = float(values.numel()), float(values.mean())
        total, delta = self.count + count, mean - self.mean
        spread = float((values - mean).square().sum())
        self.square_sum += spread + delta * delta * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    @property
    def sd(self) -> float:
        """Standard deviation (denominator: count - 1); 1 until two scores differ."""
        if self.count < 2 or self.square_sum <= 0:
            return 1.0
        return math.sqrt(self.square_sum / (self.count - 1))


def compute_targets(
    batch: RolloutBatch, forwards: Forwards, config: PpoConfig, *, kl_coef: float, score_sd: float
) -> Targets:
    """Returns the targets of an update; score_sd divides the scores before clip and penalty."""
    mask = batch.mask
    scores = shape_scores(
        batch.scores / score_sd,
        batch.finished,
        missing_eos_penalty=config.missing_eos_penalty,
        clip=config.score_clip,
    )
    kl, kl_sums = torch.zeros_like(forwards.old_logprobs), None
    if forwards.ref_logprobs is not None:
        kl = _ESTIMATORS[config.kl.estimator](forwards.old_logprobs, forwards.ref_logprobs)
        k1 = kl_k1(forwards.old_logprobs, forwards.ref_logprobs)
        kl_sums = torch.where(mask, k1, torch.zeros_like(k1)).sum(dim=1)
    shaped = token_rewards(scores, kl, mask, kl_coef=kl_coef)
    rewards = masked_whiten(shaped.rewards, mask, shift_mean=False) if config.whiten_rewards else shaped.rewards
    advantages, returns = gae(rewards, forwards.values, mask, gamma=config.gamma, lam=config.lam)
    if config.whiten_advantages:
        advantages = masked_whiten(advantages, mask)
    correction = correct(forwards.old_logprobs, batch.sampling_logprobs, mask, config.correction)
    return Targets(advantages, returns, correction, shaped, kl_sums)


def correct(old_logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor, config: CorrectionConfig) -> Correction:
    """Returns the importance weights [B, T] that the config asks for."""
    if config.kind == "truncated":
        return truncated_weights(old_logprobs, sampling_logprobs, mask, cap=config.cap)
    if config.kind == "icepop":
        return icepop_weights(old_logprobs, sampling_logprobs, mask, low=config.low, high=config.high)
    return Correction(mask.to(old_logprobs.dtype), mask)


def non_finite_rows(batch: RolloutBatch, forwards: Forwards) -> dict[str, list[int]]:
    """Returns, by quantity, the rollouts in which it is NaN or infinite where it counts; empty if all is well."""
    per_token = {
        "sampling_logprobs": batch.sampling_logprobs,
        "old_logprobs": forwards.old_logprobs,
        "ref_logprobs": forwards.ref_logprobs,
        "values": forwards.values,
    }
    bad: dict[str, list[int]] = {"score": torch.nonzero(~batch.scores.isfinite()).flatten().tolist()}
    for name, values in per_token.items():
        if values is not None:
            bad[name] = torch.nonzero((batch.mask & ~values.isfinite()).any(dim=1)).flatten().tolist()
    return {name: places for name, places in bad.items() if places}


def mean_and_sd(values: Tensor) -> tuple[float, float]:
    """Returns mean and population sd of values [B]."""
    return float(values.mean()), float(values.std(correction=0))


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Returns 1 - var(returns - values) / var(returns) over the tokens that count; NaN where returns do not vary."""
    count = mask.sum().clamp(min=1)

    def variance(x: Tensor) -> Tensor:
        mean = masked_sum(x, mask) / count
        return masked_sum((x - mean).square(), mask) / count

    total = variance(returns)
    return float(1 - variance(returns - values) / total) if float(total) > 0 else math.nan
