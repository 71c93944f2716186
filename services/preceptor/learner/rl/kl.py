"""Estimators of the KL divergence from samples, and controllers of its coefficient."""

import torch
from torch import Tensor


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Returns log(p/q) per token, [B, T]: unbiased for KL(p||q) on samples of p, high variance, may be negative.

    http://joschu.net/blog/kl-approx.html, with p the policy and q the reference.
    """
    return logprobs - ref_logprobs


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Returns (log(p/q))^2 / 2 per token, [B, T]: biased, low variance, never negative."""
    return (logprobs - ref_logprobs).square() / 2


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Returns q/p - 1 - log(q/p) per token, [B, T]: unbiased, low variance, never negative.

    The log ratio is held within +-20 before exp, so that one odd token cannot overflow.
    """
    log_ratio = (ref_logprobs - logprobs).clamp(-20.0, 20.0)
    return torch.expm1(log_ratio) - log_ratio


def adaptive_kl_coef(coef: float, observed_kl: float, *, target: float, horizon: int, rollouts: int) -> float:
    """Returns the next coefficient of Ziegler et al. 2019 (arXiv 1909.08593, section 2.2).

    coef * (1 + clip(observed / target - 1, -0.2, 0.2) * rollouts / horizon).

    Args:
      coef: the present coefficient.
      observed_kl: mean over sequences of the KL summed over tokens (k1), nats; denominator: sequences.
      target: wanted value of the same, above 0.
      horizon: rollouts over which the error acts once in full.
      rollouts: rollouts since the last change.
    """
    if target <= 0 or horizon <= 0:
        raise ValueError(f"target and horizon must be above 0, got {target} and {horizon}")
    error = min(max(observed_kl / target - 1.0, -0.2), 0.2)
    return coef * (1.0 + error * rollouts / horizon)
