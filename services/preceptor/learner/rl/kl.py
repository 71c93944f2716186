"""Estimators of the KL divergence from samples, and controllers of its coefficient."""

import torch
from torch import Tensor

from preceptor.learner.rl.losses import log_ratio
from preceptor.learner.rl.masking import masked_fill_zero


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


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: str) -> Tensor:
    """Returns the estimate per token, [B, T]; estimator: "k1", "k2" or "k3"."""
    return {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}[estimator](logprobs, ref_logprobs)


def kl_in_loss(
    logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, *, estimator: str, weighted: bool
) -> Tensor:
    """Returns a per-token KL term for the loss, [B, T], 0 where mask is False.

    The gradient of an estimate is not the gradient of the KL. With p the policy and samples of p, the bare k1 has an
    expected gradient of E[grad log p] = 0: noise and no penalty. The bare k2 has that of KL(p||q). The bare k3, which
    GRPO took, has that of the forward KL at p = q and another one elsewhere. Weighted by r = exp(logprobs -
    old_logprobs) each has that of KL(p||q), also after the first step, when the samples are of the old policy: k1 and
    k3 with the gradient of r (as TRL's `use_bias_correction_kl`), k2 with r held fixed.

    Args:
      logprobs: [B, T], with gradient.
      old_logprobs, ref_logprobs: [B, T], without.
      mask: [B, T].
      estimator: "k1", "k2" or "k3".
      weighted: see above.
    """
    estimate = kl_estimate(logprobs, ref_logprobs.detach(), estimator)
    if weighted:
        ratio = log_ratio(logprobs, old_logprobs.detach(), mask).exp()
        estimate = estimate * (ratio.detach() if estimator == "k2" else ratio)
    return masked_fill_zero(estimate, mask)


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
