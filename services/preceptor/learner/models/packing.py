"""Packed forward passes: attention that keeps the sequences of a row apart, and which models may be run so.

Everything but attention runs on the packed row, without a pad. Attention takes the row apart: on CUDA in half precision
by torch's variable-length flash attention, otherwise by causal scaled-dot-product attention over groups of sequences of
similar length. Which families this fits is found out, not listed: `enable_packing` compares numbers.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from preceptor.learner.models.layout import PackedLayout, SequenceGroup, packed_layout

ATTENTION = "preceptor_packed"
_UNKNOWN_TERMS = ("softcap", "s_aux", "position_bias")  # of the attention of some families; not computed here
_TOLERANCE = 1e-4  # relative to the largest state


class NotPackable(Exception):
    """The model's attention asks for something that the packed one does not compute."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: PackedLayout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it: query [b, heads, N, D] to [b, N, heads, D].

    packing: how the one row falls into sequences; None: rows are sequences, right-padded.
    """
    if any(kwargs.get(name) is not None for name in _UNKNOWN_TERMS) or kwargs.get("is_causal") is False:
        raise NotPackable
    longest = query.shape[2] if packing is None else packing.longest
    window = None if sliding_window is None or sliding_window >= longest else sliding_window
    if packing is None:
        mask = attention_mask if window is None else _window_mask(longest, window, query.device)
        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)
        return output
    if _fits_varlen(query):
        return _varlen(query, key, value, packing, scaling, window), None
    shared = query.shape[1] // key.shape[1]
    tokens = [x[0].transpose(0, 1) for x in (query, repeat_kv(key, shared), repeat_kv(value, shared))]
    parts = [_attend(*(x[g.start : g.end] for x in tokens), g, scaling, window) for g in packing.groups]
    return torch.cat(parts)[None], None


def enable_packing(model: PreTrainedModel) -> bool:
    """Lets the model run packed rows, if it gives the same states so; else leaves it as it was and returns False."""
    before = model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
    try:
        expected = _probe(model, packed=False)
        model.set_attn_implementation(ATTENTION)
        found = _probe(model, packed=True)
        if torch.allclose(found, expected, atol=_TOLERANCE * float(expected.abs().max()), rtol=_TOLERANCE):
            return True
    except (NotPackable, TypeError, ValueError, RuntimeError):  # a family whose forward cannot take the arguments
        pass
    model.set_attn_implementation(before)
    return False


@torch.no_grad()
def _probe(model: PreTrainedModel, *, packed: bool) -> Tensor:
    """Last hidden states [24, H] of three sequences, run one by one or packed."""
    vocabulary = model.config.get_text_config().vocab_size
    lengths = (11, 8, 5)
    ids = (torch.arange(sum(lengths), device=model.device) * 7919 + 3) % vocabulary
    if packed:
        layout = packed_layout(lengths).to(model.device)
        return packed_states(model, ids[None], layout)[0].float()
    states = [model.base_model(input_ids=part[None], use_cache=False)[0][0] for part in ids.split(lengths)]
    return torch.cat(states).float()


def packed_states(model: PreTrainedModel, input_ids: Tensor, layout: PackedLayout) -> Tensor:
    """Returns the trunk's last hidden states [1, N, H] of a packed row [1, N]."""
    states: Tensor = model.base_model(
        input_ids=input_ids, position_ids=layout.position_ids, packing=layout, use_cache=False
    )[0]
    return states


def _attend(
    query: Tensor, key: Tensor, value: Tensor, group: SequenceGroup, scaling: float | None, window: int | None
) -> Tensor:
    """[n, heads, D] each to [n, heads, D]: the group's sequences, padded to one length, each seeing itself alone."""
    padded = [_padded(x, group).unflatten(0, (group.count, group.longest)).transpose(1, 2) for x in (query, key, value)]
    narrow = None if window is None or window >= group.longest else _window_mask(group.longest, window, query.device)
    out = scaled_dot_product_attention(*padded, attn_mask=narrow, is_causal=narrow is None, scale=scaling)
    flat = out.transpose(1, 2).flatten(0, 1)
    return flat if group.unpad is None else _Gather.apply(flat, group.unpad, None)  # type: ignore[no-untyped-call]


def _padded(tokens: Tensor, group: SequenceGroup) -> Tensor:
    if group.pad is None:
        return tokens
    padded: Tensor = _Gather.apply(tokens, group.pad, group.unpad)  # type: ignore[no-untyped-call]
    return padded


def _window_mask(longest: int, window: int, device: torch.device) -> Tensor:
    """[1, 1, L, L] bool: a token sees itself and the window - 1 tokens before it."""
    back = torch.arange(longest, device=device)[:, None] - torch.arange(longest, device=device)
    return ((back >= 0) & (back < window))[None, None]


class _Gather(torch.autograd.Function):
    """x[index] along the first dimension, with a backward pass that gathers too instead of adding up.

    `back` gives for each row of x the one place that its gradient comes from; None: rows are taken at most once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor | None) -> Tensor:
        ctx.rows = x.shape[0]
        ctx.save_for_backward(index, back)
        return x.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        index, back = ctx.saved_tensors
        if back is not None:
            return grad.index_select(0, back), None, None
        return grad.new_zeros(ctx.rows, *grad.shape[1:]).index_copy_(0, index, grad.contiguous()), None, None


def _fits_varlen(query: Tensor) -> bool:
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float | None, window: int | None
) -> Tensor:
    """[1, heads, N, D] to [1, N, heads, D] by torch's variable-length flash attention."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    offsets, longest = layout.offsets, layout.longest
    span = (-1 if window is None else window - 1, 0)
    out: Any = varlen_attn(
        q,
        k,
        v,
        offsets,
        offsets,
        longest,
        longest,
        scale=scaling,
        window_size=span,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[None]
