"""From one score per rollout to one reward per token."""

from typing import NamedTuple

import torch
from torch import Tensor

from preceptor.learner.rl.masking import check_same_shape, masked_fill_zero


class ShapedRewards(NamedTuple):
    """rewards: [B, T]. non_score_rewards: [B, T], their KL part alone."""

    rewards: Tensor
    non_score_rewards: Tensor


def last_token_index(mask: Tensor) -> Tensor:
    """Returns the index [B] of each row's last token that counts; -1 for an empty row."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, positions, torch.full_like(positions, -1)).amax(dim=1)


def shape_scores(
    scores: Tensor, finished: Tensor, *, missing_eos_penalty: float = 0.0, clip: float | None = None
) -> Tensor:
    """Returns scores [B] clipped to +-clip, less missing_eos_penalty for rollouts that did not finish.

    Args:
      scores: [B], raw.
      finished: [B] bool, ended with EOS or a stop string.
      missing_eos_penalty: 0 or more, after the clip, so that it never vanishes in it.
      clip: above 0, or None for no clip.
    """
    check_same_shape(scores=scores, finished=finished)
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    return torch.where(finished, scores, scores - missing_eos_penalty)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coef: float) -> ShapedRewards:
    """Returns r_t = -kl_coef kl_t, plus the score on the last token that counts (Ziegler et al. 2019).

    Args:
      scores: [B], shaped.
      kl: [B, T], per-token estimate against the reference (see kl), no gradient.
      mask: [B, T]; in each row the tokens that count are a prefix.
      kl_coef: 0 or more.
    """
    check_same_shape(kl=kl, mask=mask)
    non_score = masked_fill_zero(-kl_coef * kl, mask)
    last = last_token_index(mask)
    at_last = torch.arange(mask.shape[1], device=mask.device)[None, :] == last[:, None]
    rewards = non_score + torch.where(at_last, scores[:, None], torch.zeros_like(non_score))
    return ShapedRewards(rewards, non_score)
