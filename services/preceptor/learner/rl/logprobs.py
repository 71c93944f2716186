"""Log-probabilities of chosen tokens without a float32 copy of all logits."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_ELEMENTS = 1 << 22  # float32 elements in flight at once: 16 MiB


class TokenLogprobs(NamedTuple):
    """logprobs: float32, log softmax(logits / temperature) of the chosen tokens. entropy: float32, in nats."""

    logprobs: Tensor
    entropy: Tensor


def token_logprobs(
    logits: Tensor, token_ids: Tensor, *, temperature: float = 1.0, with_entropy: bool = True
) -> TokenLogprobs:
    """Returns logprobs and entropy, each of token_ids' shape, float32; both carry gradients to the logits.

    logprob = z[token] - logsumexp(z) and H = logsumexp(z) - sum softmax(z) z, with z = logits / temperature. Rows are
    taken some at a time, in the forward and in the backward pass, so that the float32 work space is bounded whatever
    the number of tokens; only the logits themselves (in their own dtype) are kept for the backward pass.

    Args:
      logits: [..., V], any floating dtype.
      token_ids: [...], int64 in [0, V).
      temperature: the sampling temperature, above 0.
      with_entropy: False saves the work; entropy is then 0.
    """
    if logits.shape[:-1] != token_ids.shape:
        raise ValueError(f"logits {tuple(logits.shape)} do not fit token_ids {tuple(token_ids.shape)}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    flat = logits.reshape(-1, logits.shape[-1])
    logprobs, entropy = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        flat, token_ids.reshape(-1), temperature, with_entropy
    )
    return TokenLogprobs(logprobs.view(token_ids.shape), entropy.view(token_ids.shape))


def _rows_per_chunk(vocabulary: int) -> int:
    return max(1, _CHUNK_ELEMENTS // vocabulary)


def _z(logits: Tensor, temperature: float) -> Tensor:
    z = logits.float()
    return z if temperature == 1.0 else z / temperature


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, token_ids: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(token_ids.shape, dtype=torch.float32, device=logits.device)
        entropy = torch.zeros_like(logprobs)
        rows = _rows_per_chunk(logits.shape[-1])
        for start in range(0, logits.shape[0], rows):
            part = slice(start, start + rows)
            log_p = torch.log_softmax(_z(logits[part], temperature), dim=-1)
            logprobs[part] = log_p.gather(-1, token_ids[part, None]).squeeze(-1)
            if with_entropy:
                entropy[part] = -torch.linalg.vecdot(log_p.exp(), log_p.clamp(min=-1e30))
        ctx.save_for_backward(logits, token_ids, entropy)
        ctx.temperature, ctx.with_entropy = temperature, with_entropy
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor) -> tuple[Tensor, None, None, None]:
        # dlogprob/dz_i = [i = token] - p_i;  dH/dz_i = -p_i (log p_i + H)
        logits, token_ids, entropy = ctx.saved_tensors
        grad = torch.empty_like(logits)
        has_entropy = ctx.with_entropy and bool(grad_entropy.any())
        rows = _rows_per_chunk(logits.shape[-1])
        for start in range(0, logits.shape[0], rows):
            part = slice(start, start + rows)
            log_p = torch.log_softmax(_z(logits[part], ctx.temperature), dim=-1)
            p = log_p.exp()
            upstream = grad_logprobs[part, None]
            z_grad = p * -upstream
            if has_entropy:
                z_grad -= grad_entropy[part, None] * p * (log_p.clamp(min=-1e30) + entropy[part, None])
            z_grad.scatter_add_(-1, token_ids[part, None], upstream)
            grad[part] = z_grad / ctx.temperature
        return grad, None, None, None
