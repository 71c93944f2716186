"""Advantage estimation."""

from typing import NamedTuple

import torch
from torch import Tensor

from preceptor.learner.rl.masking import check_same_shape, masked_fill_zero


class Advantages(NamedTuple):
    """advantages and returns, [B, T] each; returns = advantages + values, before any whitening."""

    advantages: Tensor
    returns: Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> Advantages:
    """Generalised advantage estimation (Schulman et al. 2015, arXiv 1506.02438, equation 16).

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lam A_{t+1}, for t = T-1 .. 0, with V and A 0 after a
    row's last token that counts: an episode ends there, whether by EOS or by length.

    Args:
      rewards: [B, T], per token, KL and shaping included.
      values: [B, T], the critic's value of the state before each token.
      mask: [B, T]; in each row the tokens that count are a prefix.
      gamma, lam: discount and GAE's lambda, in [0, 1].

    Returns:
      Advantages, 0 where mask is False.
    """
    check_same_shape(rewards=rewards, values=values, mask=mask)
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ValueError(f"gamma and lam must lie in [0, 1], got {gamma} and {lam}")
    rewards, values = masked_fill_zero(rewards, mask), masked_fill_zero(values, mask)
    next_value = torch.zeros_like(values[:, 0])
    running = torch.zeros_like(next_value)
    columns: list[Tensor] = []
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = torch.where(mask[:, t], delta + gamma * lam * running, torch.zeros_like(running))
        columns.append(running)
        next_value = values[:, t]
    advantages = torch.stack(columns[::-1], dim=1)
    return Advantages(advantages, masked_fill_zero(advantages + values, mask))
