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


def icepop_weights(
    old_logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor, *, low: float, high: float
) -> Correction:
    """IcePop (Ring-1T, arXiv 2510.18855): the weight where it lies in [low, high]; elsewhere the token is masked."""
    weights = log_ratio(old_logprobs, sampling_logprobs, mask).exp()
    kept = mask & (weights >= low) & (weights <= high)
    return Correction(masked_fill_zero(weights, kept), kept)


def effective_sample_size(old_logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Returns (sum w)^2 / (N sum w^2), [], of untruncated token weights; N = tokens that count. 1 = on-policy."""
    weights = masked_fill_zero(log_ratio(old_logprobs, sampling_logprobs, mask).exp(), mask)
    count = mask.sum().clamp(min=1)
    total, squares = masked_sum(weights, mask), masked_sum(weights.square(), mask)
    return torch.where(squares > 0, total.square() / (squares * count).clamp(min=1e-30), torch.ones_like(total))
