"""WeightFetcher for WEIGHT_TRANSPORT_GRPC: several streams of WeightService.FetchWeights, resumed where they broke."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import google_crc32c
import numpy as np

from preceptor.api.learner.v1 import weights_pb2
from preceptor.api.learner.v1.weight_service_pb2 import FetchWeightsRequest
from preceptor.api.learner.v1.weights_pb2 import WeightManifest, WeightSource
from preceptor.clients.learner import WeightClient
from preceptor.common.channels import sync_channel
from preceptor.common.errors import Cancelled, DataLoss, DeadlineExceeded, PreceptorError, Unavailable
from preceptor.common.telemetry import get_logger
from preceptor.common.weight_chunks import CHUNK_BYTES, Chunk
from preceptor.generation.adapters.spares import SpareFiles

log = get_logger(__name__)
_TRIES = 3  # in a row without a byte of progress
_MIN_STREAM_BYTES = 8 * 1024 * 1024
_WATCH_S = 0.25
# Streams of one connection share its flow control and its thread: each gets a connection of its own. A chunk is one
# HTTP/2 frame, not 64.
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.max_frame_size", 2**24 - 1))


class GrpcFetcher:
    """Fetches from the learner.

    Args:
        spares: where files to receive into come from.
        streams: at the same time, for one version.
        timeout_s: of one stream.
        idle_timeout_s: without a byte on any stream, after which the learner counts as gone: a frozen one keeps its
            connections open.
    """

    transport = weights_pb2.WEIGHT_TRANSPORT_GRPC
    brings_whole = False

    def __init__(
        self,
        spares: SpareFiles,
        streams: int = 2,
        timeout_s: float = 600.0,
        idle_timeout_s: float = 15.0,
    ) -> None:
        self._spares = spares
        self._streams = streams
        self._timeout_s = timeout_s
        self._idle_timeout_s = idle_timeout_s

    def fetch(self, manifest: WeightManifest, source: WeightSource, folder: Path) -> None:
        """See WeightFetcher."""
        size = sum(file.size_bytes for file in manifest.files)
        if not size:
            raise Unavailable(f"policy version {manifest.policy_version} was published without a list of files")
        with ExitStack() as stack:
            target = _Files(manifest, folder, self._spares, stack)
            addresses = source.uri.split(",")
            ranges = _ranges(size, max(self._streams, len(addresses) - 1))
            pool = stack.enter_context(ThreadPoolExecutor(len(ranges), thread_name_prefix="fetch"))
            progress = stack.enter_context(_watched(self._idle_timeout_s))
            fetching = [
                pool.submit(_Stream(manifest, _from(addresses, i), target, progress, self._timeout_s).fetch, begin, end)
                for i, (begin, end) in enumerate(ranges)
            ]
            for each in fetching:
                each.result()


class _Progress:
    """When a byte last arrived; once that is too long ago, everything is cut off."""

    def __init__(self, idle_timeout_s: float) -> None:
        self.idle_timeout_s = idle_timeout_s
        self.failed: Unavailable | None = None
        self._latest = time.monotonic()
        self._over = threading.Event()
        self._clients: list[_Client] = []

    def made(self) -> None:
        self._latest = time.monotonic()

    def add(self, client: _Client) -> None:
        self._clients.append(client)
        if self.failed is not None:
            client.cut()

    def watch(self) -> None:
        while not self._over.wait(_WATCH_S):
            if time.monotonic() - self._latest > self.idle_timeout_s:
                self.failed = Unavailable(f"the learner sent nothing for {self.idle_timeout_s:g} s")
                for client in list(self._clients):
                    client.cut()
                return

    def over(self) -> None:
        self._over.set()


@contextmanager
def _watched(idle_timeout_s: float) -> Iterator[_Progress]:
    progress = _Progress(idle_timeout_s)
    watching = threading.Thread(target=progress.watch, name="fetch-watch", daemon=True)
    watching.start()
    try:
        yield progress
    finally:
        progress.over()
        watching.join()


class _Client:
    """A WeightClient on a connection of its own, that another thread may cut off."""

    def __init__(self, address: str) -> None:
        self._channel = sync_channel(address, options=_OWN_CONNECTION)
        self.weights = WeightClient(self._channel)

    def cut(self) -> None:
        """Ends the calls in progress."""
        self._channel.close()


class _Stream:
    """One range of a version's bytes, on a connection of its own."""

    def __init__(
        self,
        manifest: WeightManifest,
        addresses: Sequence[str],
        target: _Files,
        progress: _Progress,
        timeout_s: float,
    ) -> None:
        self._manifest = manifest
        self._addresses = addresses
        self._target = target
        self._progress = progress
        self._timeout_s = timeout_s

    def fetch(self, begin: int, end: int) -> None:
        """Returns once the range is there. A stream that breaks is resumed where it broke, from the next address."""
        at, tries, addresses = begin, 0, itertools.cycle(self._addresses)
        while at < end:
            before = at
            try:
                at = self._from_one(next(addresses), at, end)
            except _Broken as broken:
                at = broken.at
                tries = 1 if at > before else tries + 1
                if tries >= max(_TRIES, len(self._addresses)) or self._progress.failed is not None:
                    raise (self._progress.failed or broken.why) from broken
                log.info("a weight stream is resumed", at=at, of=end, error=broken.why.message)

    def _from_one(self, address: str, at: int, end: int) -> int:
        client = _Client(address)
        self._progress.add(client)
        try:
            return self._receive(client.weights, at, end)
        finally:
            client.cut()

    def _receive(self, client: WeightClient, at: int, end: int) -> int:
        request = FetchWeightsRequest(
            run_id=self._manifest.run_id,
            policy_version=self._manifest.policy_version,
            offset_bytes=at,
            length_bytes=end - at,
        )
        try:
            for chunk in client.fetch_chunks(request, timeout_s=self._timeout_s):
                _check(chunk, self._manifest, at, end, self._target.size)
                self._target.write(at, chunk.data)
                self._progress.made()
                at += len(chunk.data)
        except (Unavailable, DeadlineExceeded, DataLoss, Cancelled) as error:
            raise _Broken(at, error) from error
        except ValueError as error:  # grpc's word for a connection that was cut off
            raise _Broken(at, Unavailable(str(error))) from error
        if at < end:
            raise _Broken(at, Unavailable(f"the stream ended at byte {at} of {end}"))
        return at


class _Broken(Exception):
    """A stream ended early; everything before `at` has arrived."""

    def __init__(self, at: int, why: PreceptorError) -> None:
        super().__init__(why.message)
        self.at = at
        self.why = why


class _Files:
    """The files of a version as one range of bytes, written at any place by any thread."""

    def __init__(self, manifest: WeightManifest, folder: Path, spares: SpareFiles, stack: ExitStack) -> None:
        self.size = 0
        self._parts: list[tuple[int, int, int]] = []  # begin, end, descriptor
        for file in manifest.files:
            if not file.name or Path(file.name).name != file.name:
                raise DataLoss(f'"{file.name}" is not the name of a file', field="manifest.files")
            descriptor = spares.create(folder / file.name, file.size_bytes)
            stack.callback(os.close, descriptor)
            self._parts.append((self.size, self.size + file.size_bytes, descriptor))
            self.size += file.size_bytes

    def write(self, at: int, data: memoryview) -> None:
        rest = data
        for begin, end, descriptor in self._parts:
            if rest and begin <= at < end:
                written = os.pwrite(descriptor, rest[: end - at], at - begin)
                at, rest = at + written, rest[written:]
        if rest:
            raise DataLoss("a chunk reaches past the last file")


def _check(chunk: Chunk, manifest: WeightManifest, at: int, end: int, size: int) -> None:
    named = f"policy version {manifest.policy_version}"
    if chunk.size_bytes != size:
        raise DataLoss(f"{named} has {chunk.size_bytes} bytes at the learner, its manifest says {size}")
    if chunk.offset_bytes != at or not chunk.data or at + len(chunk.data) > end:
        raise DataLoss(f"{named}: a chunk for byte {chunk.offset_bytes} came where byte {at} was expected")
    if google_crc32c.value(np.frombuffer(chunk.data, np.uint8)) != chunk.crc32c:  # it takes no memoryview
        raise DataLoss(f"{named}: the chunk at byte {at} has another checksum than it was sent with")


def _from(addresses: Sequence[str], index: int) -> Sequence[str]:
    """Where stream `index` asks first, and whom after that. The last address, the learner itself, only helps out."""
    beside = len(addresses) - 1 or 1
    first = index % beside
    return [*addresses[first:beside], *addresses[:first], *addresses[beside:]]


def _ranges(size: int, streams: int) -> list[tuple[int, int]]:
    """Ranges of about one length, that begin where a chunk does."""
    streams = max(1, min(streams, size // _MIN_STREAM_BYTES))
    edges = [size * i // streams // CHUNK_BYTES * CHUNK_BYTES for i in range(streams)]
    return list(itertools.pairwise([*edges, size]))
