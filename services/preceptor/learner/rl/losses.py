"""Policy and value losses per token or per sequence; the caller takes the mean and states its denominator."""

from typing import NamedTuple

import torch
from torch import Tensor

from preceptor.learner.rl.masking import check_same_shape, masked_fill_zero


class PolicyLoss(NamedTuple):
    """loss, ratio: [B, T] float. clipped: [B, T] bool, True where the clipped branch is the one that counts."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


class ValueLoss(NamedTuple):
    """loss: [B, T] float. clipped: [B, T] bool, True where the clipped branch is the larger."""

    loss: Tensor
    clipped: Tensor


def log_ratio(logprobs: Tensor, base_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Returns logprobs - base_logprobs, [B, T], within +-20 (so that exp is finite) and 0 where mask is False."""
    check_same_shape(logprobs=logprobs, base_logprobs=base_logprobs, mask=mask)
    return masked_fill_zero(logprobs - base_logprobs, mask).clamp(-20.0, 20.0)


def ppo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    weights: Tensor | None = None,
) -> PolicyLoss:
    """Clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, equation 7), negated.

    r = exp(logprobs - old_logprobs); loss = w max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)).

    Args:
      logprobs: [B, T], of the policy being differentiated.
      old_logprobs: [B, T], recomputed by the learner before the update, no gradient.
      advantages: [B, T], no gradient.
      mask: [B, T].
      clip_low, clip_high: distances to 1, above 0.
      weights: [B, T], importance weights of the decoupled objective (see corrections), no gradient; None = 1.
    """
    check_same_shape(logprobs=logprobs, advantages=advantages)
    advantages = masked_fill_zero(advantages.detach(), mask)
    ratio = log_ratio(logprobs, old_logprobs.detach(), mask).exp()
    plain = -advantages * ratio
    bounded = -advantages * ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss = torch.maximum(plain, bounded)
    if weights is not None:
        loss = masked_fill_zero(weights.detach(), mask) * loss
    return PolicyLoss(masked_fill_zero(loss, mask), ratio, mask & (bounded > plain))


def policy_gradient_loss(
    logprobs: Tensor, advantages: Tensor, mask: Tensor, *, weights: Tensor | None = None
) -> Tensor:
    """REINFORCE's surrogate -w A log p, [B, T] (Williams 1992), whose gradient is the policy gradient's; 0 off mask.

    Args:
      logprobs: [B, T], with gradient.
      advantages: [B, T], no gradient.
      mask: [B, T].
      weights: [B, T], importance weights (see corrections), no gradient; None = 1.
    """
    check_same_shape(logprobs=logprobs, advantages=advantages, mask=mask)
    factor = advantages.detach() if weights is None else advantages.detach() * masked_fill_zero(weights.detach(), mask)
    return masked_fill_zero(-factor * masked_fill_zero(logprobs, mask), mask)


def row_sums(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Returns [count] sums of values [N] by the row [N] (int64, below count) that each belongs to; differentiable."""
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, rows, values)


def ppo_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float) -> ValueLoss:
    """Clipped value loss of OpenAI's PPO: 0.5 max((V - R)^2, (V_old + clip(V - V_old, +-clip) - R)^2).

    Args:
      values: [B, T], of the critic being differentiated.
      old_values: [B, T], of the critic before the update, no gradient.
      returns: [B, T], no gradient.
      mask: [B, T].
      clip: how far a value may move, above 0.
    """
    check_same_shape(values=values, old_values=old_values, returns=returns, mask=mask)
    values = masked_fill_zero(values, mask)
    old_values = masked_fill_zero(old_values.detach(), mask)
    returns = masked_fill_zero(returns.detach(), mask)
    plain = (values - returns).square()
    bounded = (old_values + (values - old_values).clamp(-clip, clip) - returns).square()
    return ValueLoss(0.5 * masked_fill_zero(torch.maximum(plain, bounded), mask), mask & (bounded > plain))


def approx_kl(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Returns (logprobs - old_logprobs)^2 / 2 per token, [B, T]: TRL's `approxkl` before the mean."""
    return log_ratio(logprobs.detach(), old_logprobs, mask).square() / 2
