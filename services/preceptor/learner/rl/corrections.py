"""Off-policy correction: samples came from sampling_logprobs, the update starts from old_logprobs.

The decoupled objective (Hilton et al. 2021, arXiv 2110.00641; AReaL, arXiv 2505.24298) clips the ratio to the proximal
policy, exp(logprobs - old_logprobs), and weights each token by exp(old_logprobs - sampling_logprobs).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from preceptor.learner.rl.losses import log_ratio
from preceptor.learner.rl.masking import masked_fill_zero, masked_sum


class Correction(NamedTuple):
    """weights: [B, T], 0 where mask is False. mask: [B, T], True where a token still counts."""

    weights: Tensor
    mask: Tensor


def truncated_weights(old_logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor, *, cap: float) -> Correction:
    """Truncated importance sampling per token: min(exp(old_logprobs - sampling_logprobs), cap).

    Ionides 2008; for LLM engines, Yao et al. 2025 ("Your efficient RL framework secretly brings you off-policy RL").

    Args:
      old_logprobs, sampling_logprobs: [B, T].
      mask: [B, T].
      cap: 1 or more.
    """
    weights = log_ratio(old_logprobs, sampling_logprobs, mask).exp().clamp(max=cap)
    return Correction(masked_fill_zero(weights, mask), mask)


def truncated_sequence_weights(
    old_logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor, *, cap: float, geometric: bool = False
) -> Correction:
    """Truncated importance sampling per sequence: min(w, cap) on each of its tokens.

    w = exp(sum of log ratios), the importance weight of the whole completion; its variance grows with the length.
    geometric: w = exp(mean of log ratios), biased and of bounded variance.

    Args:
      old_logprobs, sampling_logprobs: [B, T].
      mask: [B, T].
      cap: 1 or more.
    """
    logs = log_ratio(old_logprobs, sampling_logprobs, mask).sum(dim=1)
    if geometric:
        logs = logs / mask.sum(dim=1).clamp(min=1)
    weights = logs.clamp(-20.0, 20.0).exp().clamp(max=cap)[:, None].expand_as(mask)
    return Correction(masked_fill_zero(weights, mask), mask)


def decoupled_weights(old_logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor, *, high: float) -> Correction:
    """Decoupled PPO (Hilton et al. 2021; AReaL): the weight exp(old - sampling) as it is; tokens above high masked.

    old_logprobs are the proximal policy, recomputed before the update; sampling_logprobs the behaviour policy.
    """
    return icepop_weights(old_logprobs, sampling_logprobs, mask, low=0.0, high=high)


def icepop_weights(
    old_logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor, *, low: float, high: float
) -> Correction:
    """IcePop (Ring-1T, arXiv 2510.18855): the weight where it lies in [low, high]; elsewhere the token is masked."""
    weights = log_ratio(old_logprobs, sampling_logprobs, mask).exp()
    kept = mask & (weights >= low) & (weights <= high)
    return Correction(masked_fill_zero(weights, kept), kept)


def effective_sample_size(old_logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Returns (sum w)^2 / (N sum w^2), [], of untruncated token weights; N = tokens that count. 1 = on-policy."""
    return weights_ess(log_ratio(old_logprobs, sampling_logprobs, mask).exp(), mask)


def weights_ess(weights: Tensor, mask: Tensor) -> Tensor:
    """Returns (sum w)^2 / (N sum w^2), [], of weights [B, T]; N = tokens that count."""
    weights = masked_fill_zero(weights, mask)
    count = mask.sum().clamp(min=1)
    total, squares = masked_sum(weights, mask), masked_sum(weights.square(), mask)
    return torch.where(squares > 0, total.square() / (squares * count).clamp(min=1e-30), torch.ones_like(total))
