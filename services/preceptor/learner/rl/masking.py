"""Means, variances and whitening over the tokens that count."""

from collections.abc import Callable

import torch
from torch import Tensor

# Sums a small float64 tensor over the ranks that share a batch; each rank gets the sum.
Reduce = Callable[[Tensor], Tensor]


def one_rank(sums: Tensor) -> Tensor:
    """The Reduce of a single process: returns sums."""
    return sums


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


def masked_whiten(
    values: Tensor, mask: Tensor, *, shift_mean: bool = True, epsilon: float = 1e-8, reduce: Reduce = one_rank
) -> Tensor:
    """Returns (values - mean) / sqrt(var + epsilon) under mask, 0 elsewhere, in values' shape.

    As in lm-human-preferences' `whiten` (TRL's variance divides by count - 1); statistics over the tokens that count
    only, of all ranks.

    Args:
      values: [B, T] or [B].
      mask: as values.
      shift_mean: False keeps the mean (the habit for rewards): values are centred, scaled and shifted back.
      reduce: sums over ranks.
    """
    mean = global_mean(values, mask, reduce)
    centred = masked_fill_zero(values, mask) - mean
    whitened = centred * torch.rsqrt(global_mean(centred.square(), mask, reduce) + epsilon)
    return masked_fill_zero(whitened if shift_mean else whitened + mean, mask)


def global_mean(values: Tensor, mask: Tensor, reduce: Reduce = one_rank) -> Tensor:
    """Returns the mean [] under mask over all ranks; 0 where nothing counts."""
    total = torch.stack([masked_sum(values, mask).double(), mask.sum().double()])
    total = reduce(total)
    return (total[0] / total[1].clamp(min=1)).to(values.dtype)
