"""WeightFetcher for WEIGHT_TRANSPORT_GRPC: several streams of WeightService.FetchWeights, resumed where they broke."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import google_crc32c

from preceptor.api.learner.v1 import weights_pb2
from preceptor.api.learner.v1.weight_service_pb2 import FetchWeightsRequest, FetchWeightsResponse
from preceptor.api.learner.v1.weights_pb2 import WeightManifest, WeightSource
from preceptor.clients.learner import WeightClient
from preceptor.common.channels import sync_channel
from preceptor.common.errors import DataLoss, DeadlineExceeded, PreceptorError, Unavailable
from preceptor.common.telemetry import get_logger

log = get_logger(__name__)
_TRIES = 3  # in a row without a byte of progress
_MIN_STREAM_BYTES = 8 * 1024 * 1024
# Streams of one connection share its flow control and its thread: each gets a connection of its own. A chunk is one
# HTTP/2 frame, not 64.
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.max_frame_size", 2**24 - 1))


class GrpcFetcher:
    """Fetches from the learner.

    Args:
        streams: at the same time, for one version.
        timeout_s: of one stream.
    """

    transport = weights_pb2.WEIGHT_TRANSPORT_GRPC
    brings_whole = False

    def __init__(self, streams: int = 4, timeout_s: float = 600.0) -> None:
        self._streams = streams
        self._timeout_s = timeout_s

    def fetch(self, manifest: WeightManifest, source: WeightSource, folder: Path) -> None:
        """See WeightFetcher."""
        size = sum(file.size_bytes for file in manifest.files)
        if not size:
            raise Unavailable(f"policy version {manifest.policy_version} was published without a list of files")
        with ExitStack() as stack:
            target = _Files(manifest, folder, stack)
            ranges = _ranges(size, self._streams)
            pool = stack.enter_context(ThreadPoolExecutor(len(ranges), thread_name_prefix="fetch"))
            fetching = [
                pool.submit(_fetch_range, manifest, source.uri, begin, end, target, self._timeout_s)
                for begin, end in ranges
            ]
            for each in fetching:
                each.result()


def _fetch_range(
    manifest: WeightManifest, address: str, begin: int, end: int, target: _Files, timeout_s: float
) -> None:
    channel = sync_channel(address, options=_OWN_CONNECTION)
    try:
        client, at, tries = WeightClient(channel), begin, 0
        while at < end:
            before = at
            try:
                at = _stream(client, manifest, at, end, target, timeout_s)
            except _Broken as broken:
                at = broken.at
                tries = 1 if at > before else tries + 1
                if tries >= _TRIES:
                    raise broken.why from broken
                log.info("a weight stream is resumed", at=at, of=end, error=broken.why.message)
    finally:
        channel.close()


def _stream(client: WeightClient, manifest: WeightManifest, at: int, end: int, target: _Files, timeout_s: float) -> int:
    request = FetchWeightsRequest(
        run_id=manifest.run_id, policy_version=manifest.policy_version, offset_bytes=at, length_bytes=end - at
    )
    try:
        for chunk in client.fetch_weights(request, timeout_s=timeout_s):
            _check(chunk, manifest, at, end, target.size)
            target.write(at, chunk.data)
            at += len(chunk.data)
    except (Unavailable, DeadlineExceeded, DataLoss) as error:
        raise _Broken(at, error) from error
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

    def __init__(self, manifest: WeightManifest, folder: Path, stack: ExitStack) -> None:
        self.size = 0
        self._parts: list[tuple[int, int, int]] = []  # begin, end, descriptor
        for file in manifest.files:
            if not file.name or Path(file.name).name != file.name:
                raise DataLoss(f'"{file.name}" is not the name of a file', field="manifest.files")
            descriptor = os.open(folder / file.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            stack.callback(os.close, descriptor)
            os.truncate(descriptor, file.size_bytes)
            self._parts.append((self.size, self.size + file.size_bytes, descriptor))
            self.size += file.size_bytes

    def write(self, at: int, data: bytes) -> None:
        rest = memoryview(data)
        for begin, end, descriptor in self._parts:
            if rest and begin <= at < end:
                written = os.pwrite(descriptor, rest[: end - at], at - begin)
                at, rest = at + written, rest[written:]
        if rest:
            raise DataLoss("a chunk reaches past the last file")


def _check(chunk: FetchWeightsResponse, manifest: WeightManifest, at: int, end: int, size: int) -> None:
    named = f"policy version {manifest.policy_version}"
    if chunk.size_bytes != size:
        raise DataLoss(f"{named} has {chunk.size_bytes} bytes at the learner, its manifest says {size}")
    if chunk.offset_bytes != at or not chunk.data or at + len(chunk.data) > end:
        raise DataLoss(f"{named}: a chunk for byte {chunk.offset_bytes} came where byte {at} was expected")
    if google_crc32c.value(chunk.data) != chunk.crc32c:
        raise DataLoss(f"{named}: the chunk at byte {at} has another checksum than it was sent with")


def _ranges(size: int, streams: int) -> list[tuple[int, int]]:
    streams = max(1, min(streams, size // _MIN_STREAM_BYTES))
    edges = [size * i // streams for i in range(streams + 1)]
    return list(pairwise(edges))
