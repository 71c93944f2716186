"""Metrics of a batch and of its targets, under TRL's and verl's names. Denominators: sequences for objective/*, scores
and staleness; tokens that count for the rest.
"""

import torch

from preceptor.learner.rl.advantages import group_spread
from preceptor.learner.rl.corrections import effective_sample_size, weights_ess
from preceptor.learner.rl.kl import kl_k3
from preceptor.learner.rl.masking import masked_mean, masked_var
from preceptor.learner.training.rollout_batch import RolloutBatch
from preceptor.learner.training.update_targets import Forwards, Targets, explained_variance, mean_and_sd


def batch_metrics(batch: RolloutBatch, forwards: Forwards) -> dict[str, float]:
    """Returns lengths, staleness, entropy, and the mismatch between engine and learner on current-version tokens."""
    mask, current = batch.mask, batch.current
    lengths = mask.sum(dim=1).double()
    difference = (forwards.old_logprobs - batch.sampling_logprobs).abs()
    mismatch = kl_k3(batch.sampling_logprobs, forwards.old_logprobs)
    metrics = {
        "policy/entropy_avg": float(masked_mean(forwards.entropy, mask)),
        "mismatch/ess": float(effective_sample_size(forwards.old_logprobs, batch.sampling_logprobs, mask)),
        "mismatch/kl_k3": float(masked_mean(mismatch, mask)),
        "mismatch/current_token_share": float(current.sum() / mask.sum()),
        "staleness/mean": float(batch.staleness.mean()),
        "staleness/max": float(batch.staleness.max()),
        "staleness/weight_mean": float(batch.weights.mean()),
        "tokens/completion_mean": float(lengths.mean()),
        "tokens/completion_max": float(lengths.max()),
        "tokens/completion": float(lengths.sum()),
        "tokens/prompt": float(batch.prompt_tokens),
        "val/finished_share": float(batch.finished.double().mean()),
    }
    if current.any():
        metrics["mismatch/logprob_abs_mean"] = float(masked_mean(difference, current))
        metrics["mismatch/logprob_abs_max"] = float(difference[current].max())
    return metrics


def score_metrics(batch: RolloutBatch) -> dict[str, float]:
    """Returns mean and sd of the raw scores over the rollouts, and the share of rollouts whose group is tied."""
    mean, sd = mean_and_sd(batch.scores)
    tied = group_spread(batch.scores, batch.groups) == 0
    return {
        "objective/scores": mean,
        "objective/scores_sd": sd,
        "groups/without_spread_share": float(tied.double().mean()),
    }


def target_metrics(batch: RolloutBatch, forwards: Forwards, targets: Targets, *, kl_coef: float) -> dict[str, float]:
    """Returns the objective's parts, and how returns, advantages and values stand before the update."""
    mask, shaped, correction = batch.mask, targets.shaped, targets.correction
    weights = correction.weights[mask]
    metrics = {
        "objective/kl_coef": kl_coef,
        "objective/non_score_reward": float(shaped.non_score_rewards.sum(dim=1).mean()),
        "objective/rlhf_reward": float(shaped.rewards.sum(dim=1).mean()),
        "advantages/mean": float(masked_mean(targets.estimate.advantages, mask)),
        "advantages/sd": float(masked_var(targets.estimate.advantages, mask).sqrt()),
        "update/trained_share": float(targets.trained.double().mean()),
        "correction/weight_mean": float(weights.mean()),
        "correction/weight_max": float(weights.max()),
        "correction/masked_share": float(1.0 - correction.mask.sum() / mask.sum()),
        "correction/ess": float(weights_ess(correction.weights, correction.mask)),
    }
    returns, values = targets.estimate.returns, forwards.values
    if returns is not None and values is not None:
        metrics["returns/mean"] = float(masked_mean(returns, mask))
        metrics["values/mean"] = float(masked_mean(values, mask))
        metrics["values/explained_variance"] = explained_variance(values, returns, mask)
    if targets.kl_sums is not None:
        metrics["objective/kl"] = float(targets.kl_sums.mean())
        metrics["objective/kl_per_token"] = float(targets.kl_sums.sum() / mask.sum())
    metrics |= targets.estimate.metrics
    return {name: value for name, value in metrics.items() if not torch.isnan(torch.tensor(value))}
