"""Losses of preference learning."""

import torch
import torch.nn.functional as F
from torch import Tensor

from preceptor.learner.rl.masking import check_same_shape


def bradley_terry_loss(
    chosen: Tensor, rejected: Tensor, target: Tensor | None = None, margin: Tensor | None = None
) -> Tensor:
    """Cross-entropy [P] of P pairs under Bradley-Terry: P(chosen wins) = sigmoid(chosen - rejected).

    -target log sigmoid(d) - (1 - target) log sigmoid(-d), d = chosen - rejected - margin. A tie is target 0.5
    (Christiano et al. 2017, arXiv 1706.03741, section 2.2.3); a label flipped with probability e is target 1 - e.

    Args:
      chosen, rejected: [P], scores.
      target: [P] in [0, 1]; None = 1.
      margin: [P] >= 0, log-odds that chosen must win by (Touvron et al. 2023, arXiv 2307.09288, eq. 2); None = 0.
    """
    check_same_shape(chosen=chosen, rejected=rejected)
    difference = chosen - rejected if margin is None else chosen - rejected - margin
    target = torch.ones_like(difference) if target is None else target.to(difference.dtype)
    return F.binary_cross_entropy_with_logits(difference, target, reduction="none")
