"""Metrics of a batch and of its targets, under TRL's and verl's names. Denominators: sequences for objective/*, scores
and staleness; tokens that count for the rest.
"""

import torch

from preceptor.learner.rl.corrections import effective_sample_size
from preceptor.learner.rl.masking import masked_mean
from preceptor.learner.training.ppo_batch import RolloutBatch
from preceptor.learner.training.ppo_targets import Forwards, Targets, explained_variance, mean_and_sd


def batch_metrics(batch: RolloutBatch, forwards: Forwards) -> dict[str, float]:
    """Returns lengths, staleness, entropy, and the mismatch between engine and learner on current-version tokens."""
    mask, current = batch.mask, batch.current
    lengths = mask.sum(dim=1).double()
    difference = (forwards.old_logprobs - batch.sampling_logprobs).abs()
    metrics = {
        "policy/entropy_avg": float(masked_mean(forwards.entropy, mask)),
        "mismatch/ess": float(effective_sample_size(forwards.old_logprobs, batch.sampling_logprobs, mask)),
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
    """Returns mean and sd of the raw scores over the batch's rollouts."""
    mean, sd = mean_and_sd(batch.scores)
    return {"objective/scores": mean, "objective/scores_sd": sd}


def target_metrics(batch: RolloutBatch, forwards: Forwards, targets: Targets, *, kl_coef: float) -> dict[str, float]:
    """Returns the objective's parts, and how returns, advantages and values stand before the update."""
    mask = batch.mask
    shaped = targets.shaped
    weights = targets.correction.weights[mask]
    metrics = {
        "objective/kl_coef": kl_coef,
        "objective/non_score_reward": float(shaped.non_score_rewards.sum(dim=1).mean()),
        "objective/rlhf_reward": float(shaped.rewards.sum(dim=1).mean()),
        "returns/mean": float(masked_mean(targets.returns, mask)),
        "values/mean": float(masked_mean(forwards.values, mask)),
        "values/explained_variance": explained_variance(forwards.values, targets.returns, mask),
        "correction/weight_mean": float(weights.mean()),
        "correction/weight_max": float(weights.max()),
        "correction/masked_share": float(1.0 - targets.correction.mask.sum() / mask.sum()),
    }
    if targets.kl_sums is not None:
        metrics["objective/kl"] = float(targets.kl_sums.mean())
        metrics["objective/kl_per_token"] = float(targets.kl_sums.sum() / mask.sum())
    return {name: value for name, value in metrics.items() if not torch.isnan(torch.tensor(value))}
