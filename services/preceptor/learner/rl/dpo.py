"""Losses that tune a policy on preferences directly, without a reward model."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from preceptor.learner.rl.masking import check_same_shape


class PairLogprobs(NamedTuple):
    """Of P pairs, [P] each: logprobs of the whole chosen and the whole rejected completion, summed over tokens."""

    chosen: Tensor
    rejected: Tensor


def log_ratios(policy: PairLogprobs, reference: PairLogprobs) -> PairLogprobs:
    """Returns log pi(y|x) - log pi_ref(y|x) of both sides; times beta these are DPO's implicit rewards."""
    check_same_shape(
        chosen=policy.chosen,
        rejected=policy.rejected,
        ref_chosen=reference.chosen,
        ref_rejected=reference.rejected,
    )
    return PairLogprobs(policy.chosen - reference.chosen, policy.rejected - reference.rejected)


def dpo_loss(ratios: PairLogprobs, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO [P] (Rafailov et al. 2023, arXiv 2305.18290, eq. 7), with conservative label smoothing.

    -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h), h = ratios.chosen - ratios.rejected; e is the probability
    that a label is flipped (Mitchell 2023, "A note on DPO with noisy preferences").

    Args:
      ratios: [P], from log_ratios.
      beta: strength of the tie to the reference, above 0.
      label_smoothing: e in [0, 0.5).
    """
    margin = beta * (ratios.chosen - ratios.rejected)
    return -(1.0 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def robust_dpo_loss(ratios: PairLogprobs, *, beta: float, label_smoothing: float) -> Tensor:
    """Robust DPO [P] (Chowdhury et al. 2024, arXiv 2403.00409, eq. 12): unbiased where labels flip with probability e.

    ((1 - e) l(h) - e l(-h)) / (1 - 2 e), l(h) = -log sigmoid(beta h).

    Args:
      ratios: [P], from log_ratios.
      label_smoothing: e in [0, 0.5).
    """
    margin = beta * (ratios.chosen - ratios.rejected)
    clean, flipped = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    return ((1.0 - label_smoothing) * clean - label_smoothing * flipped) / (1.0 - 2.0 * label_smoothing)


def ipo_loss(ratios: PairLogprobs, chosen_tokens: Tensor, rejected_tokens: Tensor, *, beta: float) -> Tensor:
    """IPO [P] (Azar et al. 2023, arXiv 2310.12036, eq. 17; beta is the paper's tau).

    (h - 1 / (2 beta))^2, h = ratios.chosen / chosen_tokens - ratios.rejected / rejected_tokens: log-ratios are means
    over tokens, without which the squared loss grows with the completions' length
    (as TRL has it, on the authors' word).

    Args:
      ratios: [P], from log_ratios.
      chosen_tokens, rejected_tokens: [P], tokens that each sum was over.
    """
    check_same_shape(chosen=ratios.chosen, chosen_tokens=chosen_tokens, rejected_tokens=rejected_tokens)
    chosen = ratios.chosen / chosen_tokens.clamp(min=1)
    rejected = ratios.rejected / rejected_tokens.clamp(min=1)
    return (chosen - rejected - 1.0 / (2.0 * beta)).square()
