"""The process group of a learner with several ranks, from torchrun's environment or our own launcher's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from preceptor.common.errors import InvalidInput, Unavailable

# Ranks that wait for rank 0 wait as long as it waits for rollouts; what is stuck is found by the launcher, by torchrun
# or by the closed connection of a rank that died.
_TIMEOUT = timedelta(hours=24)
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Membership:
    """This process's place in a learner of `size` ranks. local_rank: its place on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        return self.rank == 0


def membership(environment: Mapping[str, str]) -> Membership:
    """Returns the place that RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT and LOCAL_RANK say; alone without WORLD_SIZE.

    Raises:
      InvalidInput: one of them is missing or wrong.
    """
    if int(environment.get("WORLD_SIZE", "1") or 1) <= 1:
        return Membership()
    missing = [name for name in _NEEDED if not environment.get(name)]
    if missing:
        raise InvalidInput(f"WORLD_SIZE is set, so {', '.join(missing)} must be set as well", field=missing[0])
    found = Membership(
        int(environment["RANK"]), int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_RANK", "0"))
    )
    if not 0 <= found.rank < found.size:
        raise InvalidInput(f"RANK {found.rank} is not in [0, WORLD_SIZE {found.size})", field="RANK")
    return found


@contextmanager
def process_group(member: Membership) -> Iterator[None]:
    """Joins the other ranks for the length of the block; nothing with a single one.

    Raises:
      Unavailable: a rank does not come or has gone: starting all of them again may help.
    """
    if member.size == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(member.local_rank)
    backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
    try:
        dist.init_process_group(backend, rank=member.rank, world_size=member.size, timeout=_TIMEOUT)
        yield
        dist.destroy_process_group()
    except dist.DistError as error:
        raise Unavailable(_gone(member, error), reason="RANK_LOST") from error
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise Unavailable(_gone(member, error), reason="RANK_LOST") from error


def _is_lost_connection(error: RuntimeError) -> bool:
    """gloo reports a peer that died as a plain RuntimeError."""
    text = str(error)
    return any(
        sign in text for sign in ("Connection closed by peer", "Connection reset by peer", "gloo", "Broken pipe")
    )


def _gone(member: Membership, error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"rank {member.rank} of {member.size}: another rank of the learner has gone ({line})"
