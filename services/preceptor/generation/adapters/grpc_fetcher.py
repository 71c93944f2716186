"""WeightFetcher for WEIGHT_TRANSPORT_GRPC: several streams of WeightService.FetchWeights, resumed where they broke."""

from __future__ import annotations

import itertools
import os
import random
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
from preceptor.common.weight_chunks import Chunk
from preceptor.generation.adapters.spares import SpareFiles

log = get_logger(__name__)
_TRIES = 3  # in a row without a byte of progress
_RANGE_BYTES = 32 * 1024 * 1024
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
        streams: int = 1,
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
            progress = stack.enter_context(_watched(self._idle_timeout_s))
            workers = max(1, min(self._streams, size // _RANGE_BYTES))
            pool = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="fetch"))
            ranges, lock = _ranges(size), threading.Lock()
            addresses = _Addresses(source.uri.split(","))
            streams = [_Stream(manifest, addresses, target, progress, self._timeout_s) for _ in range(workers)]
            for each in [pool.submit(stream.fetch_all, ranges, lock) for stream in streams]:
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
    """Fetches one range after the other, each from the next address, on connections of its own."""

    def __init__(
        self,
        manifest: WeightManifest,
        addresses: _Addresses,
        target: _Files,
        progress: _Progress,
        timeout_s: float,
    ) -> None:
        self._manifest = manifest
        self._addresses = addresses
        self._target = target
        self._progress = progress
        self._timeout_s = timeout_s
        self._clients: dict[str, _Client] = {}

    def fetch_all(self, ranges: Iterator[tuple[int, int]], lock: threading.Lock) -> None:
        """Returns once no range is left."""
        try:
            while True:
                with lock:
                    begin, end = next(ranges, (0, 0))
                if begin == end:
                    return
                self._fetch(begin, end)
        finally:
            for client in self._clients.values():
                client.cut()

    def _fetch(self, begin: int, end: int) -> None:
        """Returns once the range is there. A stream that breaks is resumed where it broke, from the next address."""
        at, tries = begin, 0
        while at < end:
            before = at
            address = self._addresses.learner if tries + 1 == _TRIES else self._addresses.next()
            try:
                at = self._receive(self._client(address).weights, at, end)
            except _Broken as broken:
                at = broken.at
                tries = 1 if at > before else tries + 1
                if tries >= _TRIES or self._progress.failed is not None:
                    raise (self._progress.failed or broken.why) from broken
                log.info("a weight stream is resumed", at=at, of=end, error=broken.why.message)

    def _client(self, address: str) -> _Client:
        if address not in self._clients:
            self._clients[address] = _Client(address)
            self._progress.add(self._clients[address])
        return self._clients[address]

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


class _Addresses:
    """Those beside the learner in turn, beginning anywhere; the learner itself, which is the last, helps out."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.learner = addresses[-1]
        self._beside = addresses[:-1] or addresses
        self._turn = itertools.count(random.randrange(len(self._beside)))

    def next(self) -> str:
        """Threads may share it."""
        return self._beside[next(self._turn) % len(self._beside)]


def _ranges(size: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(size, begin + _RANGE_BYTES)) for begin in range(0, size, _RANGE_BYTES))
