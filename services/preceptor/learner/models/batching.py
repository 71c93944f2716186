"""Token sequences into micro-batches: packed end to end in one row, or right-padded with little padding.

Right-padded: the models are causal, so a real token never sees a pad; no attention mask is needed (attention takes its
fast causal path) and position ids are simply 0, 1, 2, … for every row. Packed: see preceptor.learner.models.packing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from preceptor.learner.models.layout import PackedLayout, packed_layout

# Measured on 2 CPU threads with 0.9 M parameters: a forward and backward pass costs about as much as 200 tokens before
# its first token.
_PASS_OVERHEAD_TOKENS = 200


@dataclass(frozen=True)
class TokenBatch:
    """b sequences. rows: their indexes in the batch they come from; lengths: their tokens, in the same order.

    input_ids, target_mask (True where a token is to be predicted; never a sequence's first token, never padding):
    [b, L] right-padded, or [1, sum of lengths] where layout says how the sequences lie end to end. A batch without rows
    is one that has only to be run: see `empty_batch`.
    """

    rows: list[int]
    input_ids: Tensor
    target_mask: Tensor
    lengths: tuple[int, ...]
    layout: PackedLayout | None = None

    def to(self, device: torch.device) -> "TokenBatch":
        """Returns the same batch on device."""
        layout = None if self.layout is None else self.layout.to(device)
        return replace(
            self, input_ids=self.input_ids.to(device), target_mask=self.target_mask.to(device), layout=layout
        )

    def last_states(self, hidden: Tensor) -> Tensor:
        """Returns [b, H]: of hidden states of input_ids' shape, those at each sequence's last token."""
        lengths = torch.tensor(self.lengths, dtype=torch.int64, device=hidden.device)
        if self.layout is not None:
            return hidden[0, lengths.cumsum(0) - 1]
        return hidden[torch.arange(len(self.rows), device=hidden.device), lengths - 1]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """token_ids: one sequence. target_spans: half-open index ranges of the tokens that count."""

    token_ids: Sequence[int]
    target_spans: tuple[tuple[int, int], ...]


def target_count(row: TokenRow) -> int:
    """Returns how many tokens of a row are to be predicted."""
    return sum(max(0, min(end, len(row.token_ids)) - max(begin, 1)) for begin, end in row.target_spans)


def plan_micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Returns index lists that cover `lengths` once, longest first, each within max_tokens once padded.

    The cheapest partition of the sorted lengths, where a micro-batch costs rows * longest + a fixed overhead: dynamic
    programming over the sorted order. A single row longer than max_tokens stands alone.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    sizes = np.asarray(lengths)[order]
    count = len(sizes)
    best = np.full(count + 1, np.inf)
    best[0] = 0.0
    start_of = np.zeros(count + 1, dtype=np.int64)
    for start in range(count):
        longest = max(int(sizes[start]), 1)
        ends = np.arange(start + 1, min(count, start + max(1, max_tokens // longest)) + 1)
        cost = best[start] + (ends - start) * longest + _PASS_OVERHEAD_TOKENS
        better = cost < best[ends]
        best[ends[better]] = cost[better]
        start_of[ends[better]] = start
    groups: list[list[int]] = []
    end = count
    while end > 0:
        start = int(start_of[end])
        groups.append([int(i) for i in order[start:end]])
        end = start
    return groups[::-1]


def plan_packs(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Returns index lists that cover `lengths` once, each within max_tokens in sum, longest first within a list.

    First fit over the sorted lengths. A single row longer than max_tokens stands alone.
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for index in np.argsort(-np.asarray(lengths), kind="stable"):
        length = int(lengths[index])
        place = next((i for i, left in enumerate(room) if left >= length), len(packs))
        if place == len(packs):
            packs.append([])
            room.append(max_tokens)
        packs[place].append(int(index))
        room[place] -= length
    return packs


def collate(rows: Sequence[TokenRow], indexes: Sequence[int], pad_id: int, *, packed: bool = False) -> TokenBatch:
    """Returns the rows at `indexes` as one TokenBatch, end to end if packed, else right-padded."""
    lengths = tuple(len(rows[i].token_ids) for i in indexes)
    width = sum(lengths) if packed else max(lengths)
    ids = np.full((1 if packed else len(indexes), width), pad_id, dtype=np.int64)
    targets = np.zeros(ids.shape, dtype=bool)
    start = 0
    for place, i in enumerate(indexes):
        row = rows[i]
        line = 0 if packed else place
        ids[line, start : start + len(row.token_ids)] = row.token_ids
        for begin, end in row.target_spans:
            targets[line, start + max(begin, 1) : start + end] = True
        start += lengths[place] if packed else 0
    layout = packed_layout(lengths) if packed else None
    return TokenBatch(list(indexes), torch.from_numpy(ids), torch.from_numpy(targets), lengths, layout)


def micro_batches(
    rows: Sequence[TokenRow],
    max_tokens: int,
    pad_id: int,
    *,
    packed: bool = False,
    places: Sequence[int] | None = None,
) -> list[TokenBatch]:
    """Returns `rows` (those at `places`, if given) as micro-batches of at most max_tokens tokens each, pads included.

    See plan_packs and plan_micro_batches.
    """
    chosen = range(len(rows)) if places is None else places
    lengths = [len(rows[i].token_ids) for i in chosen]
    plan = plan_packs(lengths, max_tokens) if packed else plan_micro_batches(lengths, max_tokens)
    return [collate(rows, [chosen[i] for i in indexes], pad_id, packed=packed) for indexes in plan]


def empty_batch(pad_id: int) -> TokenBatch:
    """Returns a batch of two tokens that count for nothing: a rank without work takes part in the collectives by it."""
    ids = torch.full((1, 2), pad_id, dtype=torch.int64)
    return TokenBatch([], ids, torch.zeros_like(ids, dtype=torch.bool), ())
