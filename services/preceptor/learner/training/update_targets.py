"""What one update aims at: rewards, advantages, returns and importance weights, fixed before its first epoch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor.learner.algorithms.base import Algorithm, Estimate, Sample
from preceptor.learner.rl.corrections import (
    Correction,
    decoupled_weights,
    icepop_weights,
    truncated_sequence_weights,
    truncated_weights,
)
from preceptor.learner.rl.kl import kl_estimate, kl_k1
from preceptor.learner.rl.masking import masked_sum
from preceptor.learner.rl.rewards import ShapedRewards, length_penalties, shape_scores, token_rewards
from preceptor.learner.run_configs.update import CorrectionConfig, UpdateConfig
from preceptor.learner.training.rollout_batch import RolloutBatch


@dataclass(frozen=True)
class Forwards:
    """Before the update, [B, T] each, no gradient: of the policy, of the reference and of the critic (None where there
    is none); and the policy's entropy.
    """

    old_logprobs: Tensor
    ref_logprobs: Tensor | None
    values: Tensor | None
    entropy: Tensor


@dataclass(frozen=True)
class Targets:
    """estimate: the algorithm's. correction: importance weights and the tokens that still count.

    units: the rollouts to train, those that belong in one minibatch together. trained: [B] bool, rollouts in the
    policy's loss. kl_sums: [B], k1 summed over a sequence; None without a reference. shaped: per-token rewards and
    their KL part.
    """

    estimate: Estimate
    correction: Correction
    units: list[list[int]]
    trained: Tensor
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
    algorithm: Algorithm, batch: RolloutBatch, forwards: Forwards, *, kl_coef: float, score_sd: float
) -> Targets:
    """Returns the targets of an update; kl_coef: in the reward; score_sd divides the scores before clip and penalty."""
    config, mask = algorithm.config, batch.mask
    scores = _scores(batch, config, score_sd)
    kl, kl_sums = torch.zeros_like(forwards.old_logprobs), None
    if forwards.ref_logprobs is not None:
        kl = kl_estimate(forwards.old_logprobs, forwards.ref_logprobs, config.kl.estimator)
        k1 = kl_k1(forwards.old_logprobs, forwards.ref_logprobs)
        kl_sums = torch.where(mask, k1, torch.zeros_like(k1)).sum(dim=1)
    dense = batch.token_rewards / score_sd
    shaped = token_rewards(scores, kl, mask, kl_coef=kl_coef, dense=dense)
    sample = Sample(shaped.rewards, scores + dense.sum(dim=1), mask, batch.groups, forwards.values)
    estimate = algorithm.estimate(sample)
    correction = correct(forwards.old_logprobs, batch.sampling_logprobs, mask, config.correction)
    trained = _trained(batch, estimate, config)
    units = _units(estimate, trained, has_critic=algorithm.needs().critic)
    return Targets(estimate, correction, units, trained, shaped, kl_sums)


def _scores(batch: RolloutBatch, config: UpdateConfig, score_sd: float) -> Tensor:
    scores = shape_scores(
        batch.scores / score_sd,
        batch.finished,
        missing_eos_penalty=config.missing_eos_penalty,
        clip=config.score_clip,
    )
    overlong = config.overlong
    if config.length_penalty or overlong.cache_tokens:
        scores = scores - length_penalties(
            batch.mask,
            per_token=config.length_penalty,
            cache_tokens=overlong.cache_tokens,
            penalty=overlong.penalty,
            max_tokens=config.max_tokens,
        )
    return scores


def _trained(batch: RolloutBatch, estimate: Estimate, config: UpdateConfig) -> Tensor:
    trained = torch.ones_like(batch.finished) if estimate.trained is None else estimate.trained
    return trained & batch.finished if config.overlong.filter else trained


def _units(estimate: Estimate, trained: Tensor, *, has_critic: bool) -> list[list[int]]:
    """A critic learns from every rollout, whatever the policy leaves out."""
    kept = trained.tolist()
    if estimate.units is not None:
        return [unit for unit in estimate.units if all(kept[place] for place in unit)]
    return [[place] for place, keeps in enumerate(kept) if keeps or has_critic]


def correct(old_logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor, config: CorrectionConfig) -> Correction:
    """Returns the importance weights [B, T] that the config asks for."""
    if config.kind == "truncated" and config.level != "token":
        return truncated_sequence_weights(
            old_logprobs, sampling_logprobs, mask, cap=config.cap, geometric=config.level == "geometric"
        )
    if config.kind == "truncated":
        return truncated_weights(old_logprobs, sampling_logprobs, mask, cap=config.cap)
    if config.kind == "icepop":
        return icepop_weights(old_logprobs, sampling_logprobs, mask, low=config.low, high=config.high)
    if config.kind == "decoupled":
        return decoupled_weights(old_logprobs, sampling_logprobs, mask, high=config.high)
    return Correction(mask.to(old_logprobs.dtype), mask)


def non_finite_rows(batch: RolloutBatch, forwards: Forwards) -> dict[str, list[int]]:
    """Returns, by quantity, the rollouts in which it is NaN or infinite where it counts; empty if all is well."""
    per_token = {
        "sampling_logprobs": batch.sampling_logprobs,
        "old_logprobs": forwards.old_logprobs,
        "ref_logprobs": forwards.ref_logprobs,
        "values": forwards.values,
        "token_rewards": batch.token_rewards,
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
