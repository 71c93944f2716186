"""The ranks of a learner as its training code sees them; one process is one rank without a process group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among `size`. Methods that talk to the others must be called by all ranks, in the same order."""

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which alone reads rollouts, publishes and answers requests."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum over ranks of a tensor of one shape."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def max(self, values: Tensor) -> Tensor:
        """Returns the element-wise maximum over ranks of a tensor of one shape."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def sums(self, values: dict[str, float]) -> dict[str, float]:
        """Returns the sums over ranks, key by key; a key may be missing on some ranks."""
        if self.size == 1:
            return values
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, values)
        names = dict.fromkeys(name for part in gathered for name in part)
        return {name: sum(part.get(name, 0.0) for part in gathered) for name in names}

    def agree(self, answer: bool) -> bool:
        """Returns whether all ranks say so."""
        return float(self.sum(torch.tensor(float(answer)))) == self.size

    def told(self, value: T) -> T:
        """Returns rank 0's value."""
        if self.size == 1:
            return value
        message: list[Any] = [value]
        dist.broadcast_object_list(message, src=0)
        told: T = message[0]
        return told

    def share(self, lengths: Sequence[int]) -> list[list[int]]:
        """Returns the places of `lengths` by rank, balanced by tokens: the longest left to the rank with fewest."""
        shares: list[list[int]] = [[] for _ in range(self.size)]
        loads = [0] * self.size
        for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            rank = loads.index(min(loads))
            shares[rank].append(place)
            loads[rank] += lengths[place]
        return shares

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        if self.size == 1:
            return values
        reduced = values.detach().to(self.device, copy=True)
        dist.all_reduce(reduced, op=operation)
        return reduced.to(values.device)


def this_rank(device: torch.device) -> Ranks:
    """Returns the ranks of this process's process group; one rank on `device` where there is none."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks(device=device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    return Ranks(dist.get_rank(), dist.get_world_size(), device)
