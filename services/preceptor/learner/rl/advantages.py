"""Advantage estimation."""

from typing import NamedTuple

import torch
from torch import Tensor

from preceptor.learner.rl.masking import check_same_shape, masked_fill_zero

_SCALE_EPSILON = 1e-4  # as in TRL's GRPO: scores of a group may differ by very little


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


def returns_to_go(rewards: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Returns G_t = r_t + gamma G_{t+1}, [B, T], 0 where mask is False.

    Args:
      rewards: [B, T], per token, KL and shaping included.
      mask: [B, T]; in each row the tokens that count are a prefix.
      gamma: discount in [0, 1].
    """
    check_same_shape(rewards=rewards, mask=mask)
    rewards = masked_fill_zero(rewards, mask)
    running = torch.zeros_like(rewards[:, 0])
    columns: list[Tensor] = []
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        columns.append(running)
    return masked_fill_zero(torch.stack(columns[::-1], dim=1), mask)


def group_means(scores: Tensor, groups: Tensor) -> Tensor:
    """Returns the mean score of each rollout's group, [B].

    Args:
      scores: [B].
      groups: [B] int64, the number of each rollout's group, from 0.
    """
    sizes = _group_sums(torch.ones_like(scores), groups)
    return _group_sums(scores, groups) / sizes


def group_sds(scores: Tensor, groups: Tensor) -> Tensor:
    """Returns the standard deviation (denominator: n - 1) of the scores in each rollout's group, [B]; n = 1 gives 0."""
    squares = _group_sums((scores - group_means(scores, groups)).square(), groups)
    sizes = _group_sums(torch.ones_like(scores), groups)
    return (squares / (sizes - 1).clamp(min=1)).sqrt()


def group_relative(scores: Tensor, groups: Tensor, *, scale: str) -> Tensor:
    """Returns GRPO's advantages [B]: score less the group's mean, over a standard deviation + 1e-4.

    DeepSeekMath (arXiv 2402.03300, section 4.1.2); without the division Dr. GRPO (arXiv 2503.20783).

    Args:
      scores: [B].
      groups: [B] int64.
      scale: "group" (sd of the group), "batch" (sd of all scores) or "none". Denominators of the sds: count - 1.
    """
    centred = scores - group_means(scores, groups)
    if scale == "group":
        return centred / (group_sds(scores, groups) + _SCALE_EPSILON)
    if scale == "batch":
        sd = scores.std(correction=1) if scores.numel() > 1 else torch.zeros_like(scores[0])
        return centred / (sd + _SCALE_EPSILON)
    if scale != "none":
        raise ValueError(f'scale must be "group", "batch" or "none", got {scale!r}')
    return centred


def leave_one_out(scores: Tensor, groups: Tensor) -> Tensor:
    """Returns RLOO's advantages [B]: score less the mean score of the group's other rollouts.

    Kool et al. 2019; Ahmadian et al. 2024 (arXiv 2402.14740, equation 4). A group of one has advantage 0.
    """
    sizes = _group_sums(torch.ones_like(scores), groups)
    others = (_group_sums(scores, groups) - scores) / (sizes - 1).clamp(min=1)
    return torch.where(sizes > 1, scores - others, torch.zeros_like(scores))


def group_spread(scores: Tensor, groups: Tensor) -> Tensor:
    """Returns the largest less the smallest score of each rollout's group, [B]."""
    count = int(groups.max()) + 1
    top = torch.full((count,), -torch.inf, dtype=scores.dtype, device=scores.device)
    top = top.scatter_reduce(0, groups, scores, "amax")
    low = -torch.full_like(top, -torch.inf).scatter_reduce(0, groups, -scores, "amax")
    return (top - low)[groups]


def rank_in_group(scores: Tensor, groups: Tensor) -> Tensor:
    """Returns each rollout's place in its group, [B] int64: 0 = best score; of equal scores the earlier one first."""
    better = scores[None, :] > scores[:, None]
    order = torch.arange(scores.numel(), device=scores.device)
    tied_before = (scores[None, :] == scores[:, None]) & (order[None, :] < order[:, None])
    return ((better | tied_before) & (groups[None, :] == groups[:, None])).sum(dim=1)


def _group_sums(values: Tensor, groups: Tensor) -> Tensor:
    check_same_shape(values=values, groups=groups)
    sums = torch.zeros(int(groups.max()) + 1, dtype=values.dtype, device=values.device)
    return sums.index_add(0, groups, values)[groups]
