"""How sequences that lie end to end in one row are taken apart for attention."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# A group of sequences costs attention a handful of kernel calls, worth about as much as so many padded tokens.
_GROUP_OVERHEAD_TOKENS = 512


@dataclass(frozen=True)
class SequenceGroup:
    """`count` neighbouring sequences, tokens [start, end) of the row, padded to `longest` for attention.

    pad: [count * longest] int64, for each padded place the token of the group that stands there (any, on padding).
    unpad: [end - start] int64, for each token its padded place. Both None where all are of one length.
    """

    start: int
    end: int
    count: int
    longest: int
    pad: Tensor | None = None
    unpad: Tensor | None = None


@dataclass(frozen=True)
class PackedLayout:
    """position_ids: [1, N], from 0 in each sequence. offsets: [sequences + 1] int32, where each begins."""

    position_ids: Tensor
    offsets: Tensor
    longest: int
    groups: tuple[SequenceGroup, ...]

    def to(self, device: torch.device) -> "PackedLayout":
        """Returns the same layout on device."""
        groups = tuple(
            g if g.pad is None or g.unpad is None else replace(g, pad=g.pad.to(device), unpad=g.unpad.to(device))
            for g in self.groups
        )
        return replace(self, position_ids=self.position_ids.to(device), offsets=self.offsets.to(device), groups=groups)


def packed_layout(lengths: Sequence[int]) -> PackedLayout:
    """Returns the layout of sequences of these lengths, end to end; cheapest if they come sorted by length."""
    sizes = torch.tensor(lengths)
    ends = sizes.cumsum(0)
    offsets = torch.cat([torch.zeros(1, dtype=ends.dtype), ends])
    positions = torch.arange(int(ends[-1])) - torch.repeat_interleave(offsets[:-1], sizes)
    groups = tuple(_group(lengths, offsets, first, last) for first, last in _spans(lengths))
    return PackedLayout(positions[None], offsets.int(), max(lengths), groups)


def _spans(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours that share a padded attention call: a new group where going on would pad more than it costs."""
    spans: list[tuple[int, int]] = []
    first, longest, padded = 0, lengths[0], 0
    for index, length in enumerate(lengths):
        wider = max(longest, length)
        waste = padded + (wider - longest) * (index - first) + wider - length
        if waste > _GROUP_OVERHEAD_TOKENS and index > first:
            spans.append((first, index))
            first, longest, padded = index, length, 0
        else:
            longest, padded = wider, waste
    spans.append((first, len(lengths)))
    return spans


def _group(lengths: Sequence[int], offsets: Tensor, first: int, last: int) -> SequenceGroup:
    start, end, longest = int(offsets[first]), int(offsets[last]), max(lengths[first:last])
    group = SequenceGroup(start, end, last - first, longest)
    if min(lengths[first:last]) == longest:
        return group
    begins = offsets[first:last] - start
    sizes = torch.tensor(lengths[first:last])
    columns = torch.arange(longest)
    pad = (begins[:, None] + columns.minimum(sizes[:, None] - 1)).flatten()
    real = (columns < sizes[:, None]).flatten()
    return SequenceGroup(start, end, last - first, longest, pad, real.nonzero().flatten())
