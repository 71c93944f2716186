"""Means, variances and whitening over the tokens that count."""

import torch
from torch import Tensor


def check_same_shape(**tensors: Tensor) -> None:
    """Raises ValueError naming the tensors, unless all have the same shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"shapes differ: {shapes}")


def masked_fill_zero(values: Tensor, mask: Tensor) -> Tensor:
    """Returns values where mask is True and 0 elsewhere; no gradient and no NaN passes where it is False."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the sum [] of the values [B, T] under mask."""
    check_same_shape(values=values, mask=mask)
    return masked_fill_zero(values, mask).sum()


def masked_mean(values: Tensor, mask: Tensor, *, denominator: float | Tensor | None = None) -> Tensor:
    """Returns the sum under mask divided by the denominator, [].

    Args:
      values: [B, T].
      mask: [B, T].
      denominator: the count to divide by. Default: the number of True in mask. A micro-batch of a larger batch passes
        the larger batch's count, so that its parts add up to the mean. A count of 0 gives 0.
    """
    count = mask.sum() if denominator is None else torch.as_tensor(denominator, device=values.device)
    return masked_sum(values, mask) / count.clamp(min=1)


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the population variance [] (denominator: number of True in mask) of values [B, T] under mask."""
    mean = masked_mean(values, mask)
    return masked_mean((masked_fill_zero(values, mask) - mean).square(), mask)


def masked_whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True, epsilon: float = 1e-8) -> Tensor:
    """Returns (values - mean) / sqrt(var + epsilon) under mask, [B, T], 0 elsewhere.

    As in TRL's and lm-human-preferences' `whiten`; statistics over the tokens that count only.

    Args:
      values: [B, T].
      mask: [B, T].
      shift_mean: False keeps the mean (the habit for rewards): values are centred, scaled and shifted back.
    """
    mean = masked_mean(values, mask)
    whitened = (masked_fill_zero(values, mask) - mean) * torch.rsqrt(masked_var(values, mask) + epsilon)
    return masked_fill_zero(whitened if shift_mean else whitened + mean, mask)
