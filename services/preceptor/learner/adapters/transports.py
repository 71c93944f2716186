"""Ways for a version to reach generators beside the store, offered while this process lives."""

from __future__ import annotations

import os
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from preceptor.api.learner.v1 import weights_pb2
from preceptor.common.locked_folder import LockedFolder, remove_abandoned
from preceptor.common.telemetry import get_logger
from preceptor.learner.adapters.weight_senders import WeightSenders

log = get_logger(__name__)
SHM_PREFIX = "preceptor-weights-"
_SHM = Path("/dev/shm")
_KEPT_SEGMENTS = 2
_SHM_SPARE = 1.25  # of a version's size must be free, so that others on the host are left room
_COPY_BYTES = 64 * 1024 * 1024


class Transport(Protocol):
    """One way beside the store."""

    def offer(self, version: int, staged: Path) -> weights_pb2.WeightSource | None:
        """Makes a version available from a folder with its whole weights; None where that cannot be done."""
        ...

    def close(self) -> None:
        """Takes back what was offered."""
        ...


class GrpcTransport:
    """WeightService.FetchWeights of this process and of those beside it, which read what is stored.

    Args:
        address: of this process.
        senders: the processes beside it.
    """

    def __init__(self, address: str, senders: WeightSenders | None = None) -> None:
        self._address = address
        self._senders = senders

    def offer(self, version: int, staged: Path) -> weights_pb2.WeightSource | None:
        """See Transport."""
        beside = self._senders.addresses() if self._senders is not None else ()
        return weights_pb2.WeightSource(
            transport=weights_pb2.WEIGHT_TRANSPORT_GRPC, uri=",".join([*beside, self._address])
        )

    def close(self) -> None:
        """See Transport."""
        if self._senders is not None:
            self._senders.close()


class ShmTransport:
    """Versions in shared memory, written once, for the generators of this host.

    A generator links the files into a folder of its own, so that they stay for as long as it serves them. What a
    killed learner left is removed by the next one on the host.
    """

    def __init__(self, run_id: str, parent: Path = _SHM) -> None:
        remove_abandoned(parent, SHM_PREFIX)  # of other runs too
        self._folder = LockedFolder(parent, f"{SHM_PREFIX}{run_id}-")
        self._versions: list[int] = []

    def offer(self, version: int, staged: Path) -> weights_pb2.WeightSource | None:
        """See Transport."""
        size = sum(file.stat().st_size for file in staged.iterdir())
        if shutil.disk_usage(self._folder.path).free < size * _SHM_SPARE:
            log.warning("no room in shared memory for a version", policy_version=version, size_bytes=size)
            return None
        segment = self._folder.path / f"{version:08d}"
        try:
            self._write(staged, segment)
        except OSError as error:
            log.warning("shared memory cannot be written", policy_version=version, error=str(error))
            shutil.rmtree(segment, ignore_errors=True)
            return None
        return weights_pb2.WeightSource(
            transport=weights_pb2.WEIGHT_TRANSPORT_SHM, uri=str(segment), host=socket.gethostname()
        )

    def close(self) -> None:
        """See Transport."""
        self._folder.remove()

    def _write(self, staged: Path, segment: Path) -> None:
        segment.mkdir()
        self._versions.append(int(segment.name))
        for file in staged.iterdir():
            copy_parallel(file, segment / file.name)
            (segment / file.name).chmod(0o444)
        for overtaken in self._versions[:-_KEPT_SEGMENTS]:
            shutil.rmtree(self._folder.path / f"{overtaken:08d}", ignore_errors=True)
        del self._versions[:-_KEPT_SEGMENTS]


def copy_parallel(source: Path, target: Path) -> None:
    """Copies a file by several threads: getting pages of shared memory is most of the work."""
    size = source.stat().st_size

    def copy(begin: int) -> None:
        at, end = begin, min(size, begin + _COPY_BYTES)
        with source.open("rb") as reading, target.open("r+b") as writing:
            while at < end:
                os.lseek(writing.fileno(), at, os.SEEK_SET)
                sent = os.sendfile(writing.fileno(), reading.fileno(), at, end - at)
                if not sent:
                    raise OSError(f"{source} became shorter while it was copied")
                at += sent

    target.touch()
    os.truncate(target, size)
    with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
        list(pool.map(copy, range(0, size, _COPY_BYTES)))
