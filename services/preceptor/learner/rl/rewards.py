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


def last_token_mask(mask: Tensor) -> Tensor:
    """Returns [B, T] bool, True at each row's last token that counts."""
    return torch.arange(mask.shape[1], device=mask.device)[None, :] == last_token_index(mask)[:, None]


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


def length_penalties(
    mask: Tensor, *, per_token: float, cache_tokens: int, penalty: float, max_tokens: int | None
) -> Tensor:
    """Returns what is taken from each score for its length, [B], 0 or more.

    per_token for every token, plus DAPO's soft overlong punishment (arXiv 2503.14476, equation 13): 0 up to max_tokens
    - cache_tokens, then linearly up to penalty at max_tokens.

    Args:
      mask: [B, T].
      cache_tokens: 0 for no soft punishment.
      max_tokens: tokens per completion at most; needed with cache_tokens.
    """
    lengths = mask.sum(dim=1).to(torch.float32)
    taken = per_token * lengths
    if cache_tokens and max_tokens is None:
        raise ValueError("the soft overlong punishment needs max_tokens")
    if cache_tokens and max_tokens is not None:
        over = (lengths - (max_tokens - cache_tokens)) / cache_tokens
        taken = taken + penalty * over.clamp(0.0, 1.0)
    return taken


def token_rewards(
    scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coef: float, dense: Tensor | None = None
) -> ShapedRewards:
    """Returns r_t = -kl_coef kl_t + dense_t, plus the score on the last token that counts (Ziegler et al. 2019).

    Args:
      scores: [B], shaped.
      kl: [B, T], per-token estimate against the reference (see kl), no gradient.
      mask: [B, T]; in each row the tokens that count are a prefix.
      kl_coef: 0 or more.
      dense: [B, T], rewards of single tokens, if there are any.
    """
    check_same_shape(kl=kl, mask=mask)
    non_score = masked_fill_zero(-kl_coef * kl, mask)
    rewards = non_score + torch.where(last_token_mask(mask), scores[:, None], torch.zeros_like(non_score))
    if dense is not None:
        rewards = rewards + masked_fill_zero(dense, mask)
    return ShapedRewards(rewards, non_score)
