"""Training state on disk: copied to host memory at once, written in a thread, each rank its own shards.

Weights and optimiser moments go through torch.distributed.checkpoint, so that another number of ranks can load them;
everything else, which every rank has alike, into state.pt of rank 0.
"""

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from blake3 import blake3
from torch import Tensor
from torch.distributed._state_dict_utils import _offload_state_dict_to_cpu
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor import zeros as sharded_zeros

from preceptor.common.errors import DataLoss
from preceptor.learner.distributed.ranks import Ranks

warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)  # one rank: as meant
_PLAIN = "state.pt"
_SHARDED = "__sharded__"
_CHUNK_BYTES = 4 * 1024 * 1024


class SnapshotWriter:
    """Writes one state at a time, in order; every rank has one and calls it alike."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        # Of its own: the thread's collectives must not mix with those of the training.
        self._group = dist.new_group(backend="gloo") if ranks.size > 1 else None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def begin(self, state: Mapping[str, Any], directory: Path) -> "Future[dict[str, str]]":
        """Copies the state to host memory; returns a future that is done once all ranks' files are durable.

        Its result: BLAKE3 of every file, by name. The caller makes the directory appear under its final name.
        """
        sharded: dict[str, Tensor] = {}
        plain = _split(state, "", sharded)
        copies = _on_host(sharded)
        return self._executor.submit(self._write, plain, copies, directory)

    def close(self) -> None:
        """Waits until everything is written."""
        self._executor.shutdown(wait=True)

    def _write(self, plain: Any, copies: dict[str, Tensor], directory: Path) -> dict[str, str]:
        directory.mkdir(parents=True, exist_ok=True)
        if self._ranks.leads:
            with (directory / _PLAIN).open("wb") as stream:
                torch.save(plain, stream)
                stream.flush()
                os.fsync(stream.fileno())
        writer = dcp.FileSystemWriter(directory, sync_files=True)
        dcp.save(copies, storage_writer=writer, process_group=self._group, no_dist=self._group is None)
        own = {path.name: file_digest(path) for path in sorted(directory.iterdir()) if self._is_ours(path.name)}
        if self._group is None:
            return own
        parts: list[Any] = [None] * self._ranks.size
        dist.all_gather_object(parts, own, group=self._group)
        return {name: digest for part in parts for name, digest in part.items()}

    def _is_ours(self, name: str) -> bool:
        return name.startswith(f"__{self._ranks.rank}_") or (self._ranks.leads and not name.startswith("__"))


def read_snapshot(directory: Path, live: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Returns the state that SnapshotWriter wrote, sharded as the live state is; a collective call.

    live: the present state. Its tensors are overwritten, and tell how the stored ones are sharded.

    Raises:
      DataLoss: a file is missing, cut short, or fails its checksums.
    """
    plain = _read_plain(directory / _PLAIN)
    present: dict[str, Tensor] = {}
    _split(live, "", present)
    targets: dict[str, Tensor] = {}
    state = _joined(plain, present, ranks, targets)
    try:
        dcp.load(targets, storage_reader=dcp.FileSystemReader(directory), no_dist=ranks.size == 1)
    except (OSError, CheckpointException, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise DataLoss(f"the checkpoint {directory} cannot be read: {error}") from error
    result: dict[str, Any] = state
    return result


def file_digest(path: Path) -> str:
    """Returns a file's BLAKE3, in hexadecimal."""
    digest = blake3()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _read_plain(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise DataLoss(f"the checkpoint {path} is damaged at {broken}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, zipfile.BadZipFile, RuntimeError, pickle.UnpicklingError) as error:
        raise DataLoss(f"the checkpoint {path} cannot be read: {error}") from error


def _split(value: Any, path: str, sharded: dict[str, Tensor]) -> Any:
    """The same structure with its large tensors taken out into `sharded`, by path."""
    if isinstance(value, Tensor):
        if not isinstance(value, DTensor) and (value.ndim == 0 or not value.is_floating_point()):
            return value.detach().cpu().clone()
        sharded[path] = value.detach()
        return {_SHARDED: path, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    return _mapped(value, path, lambda part, at: _split(part, at, sharded))


def _joined(value: Any, present: Mapping[str, Tensor], ranks: Ranks, targets: dict[str, Tensor]) -> Any:
    """The structure that `_split` was given, its large tensors still to be filled in: they are in `targets`."""

    def join(part: Any, path: str) -> Any:
        if isinstance(part, dict) and _SHARDED in part:
            found = present.get(path)
            targets[path] = _empty(part, ranks) if found is None else found
            return targets[path]
        return _mapped(part, path, join)

    return join(value, "")


def _mapped(value: Any, path: str, change: Callable[[Any, str], Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: change(part, f"{path}/{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([change(part, f"{path}/{index}") for index, part in enumerate(value)])
    return value


def _empty(described: Mapping[str, Any], ranks: Ranks) -> Tensor:
    """Room for a tensor that the live state lacks: an optimiser moment, sharded as FSDP2 shards its parameter."""
    shape, dtype = described["shape"], getattr(torch, described["dtype"])
    if ranks.size == 1:
        return torch.zeros(shape, dtype=dtype, device=ranks.device)
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    made: Tensor = sharded_zeros(*shape, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
    return made


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU; of a sharded tensor, this rank's part."""
    if any(tensor.is_cuda for tensor in tensors.values()):
        copied: dict[str, Tensor] = _offload_state_dict_to_cpu(tensors, type_check=False)
        return copied
    return {name: tensor.clone() for name, tensor in tensors.items()}
