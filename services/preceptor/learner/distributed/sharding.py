"""FSDP2: parameters, gradients and optimiser state in shards, one layer whole at a time."""

from collections.abc import Sequence

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from preceptor.learner.distributed.ranks import Ranks


def shard(module: nn.Module, layers: Sequence[nn.Module], ranks: Ranks) -> None:
    """Shards each layer, then the rest as the root. Gradients are summed over ranks, not averaged.

    Every rank's loss is its part of a mean over the whole minibatch, so that the parts add up.
    """
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    root = fully_shard(module, mesh=mesh)
    for part in [*layers, root]:
        part.set_gradient_divide_factor(1.0)  # type: ignore[operator]
        part.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]
