"""A version's files as the chunks of WeightService.FetchWeights."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from preceptor.common.errors import DataLoss, InvalidInput, NotFound
from preceptor.common.weight_chunks import CHUNK_BYTES, encode_chunk

_RECENT_CHUNKS = 128


class RecentChunks:
    """Serialised chunks that were sent a moment ago: generators that fetch one version together share the work."""

    def __init__(self, most: int = _RECENT_CHUNKS) -> None:
        self._most = most
        self._chunks: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> bytes | None:
        with self._lock:
            return self._chunks.get(key)

    def put(self, key: tuple[object, ...], chunk: bytes) -> None:
        with self._lock:
            self._chunks[key] = chunk
            while len(self._chunks) > self._most:
                self._chunks.popitem(last=False)


async def stream_files(
    files: Sequence[Path], offset: int, length: int, recent: RecentChunks | None = None
) -> AsyncIterator[bytes]:
    """Yields `length` bytes (0 = all) of the files' concatenation, from `offset` on, as serialised responses.

    A chunk ends at a multiple of CHUNK_BYTES or with its file. The next ones are read ahead.

    Raises:
        InvalidInput: offset or length is outside the files.
        NotFound: a file is gone.
        DataLoss: a file became shorter.
    """
    with ExitStack() as stack:
        opened = await asyncio.to_thread(_open_all, stack, files)
        size = sum(file.size for file in opened)
        if not 0 <= offset <= size:
            raise InvalidInput(f"offset_bytes {offset} is outside [0, {size}]", field="offset_bytes")
        if not 0 <= length <= size - offset:
            raise InvalidInput(f"length_bytes {length} is outside [0, {size - offset}]", field="length_bytes")
        end = offset + length if length else size
        reader = _Reader(opened, end, size, recent or RecentChunks(0))
        while offset < end:
            chunk = reader.read(offset)
            if chunk is None:
                chunk = await asyncio.to_thread(reader.read, offset, wait=True)
            assert chunk
            yield chunk
            offset = reader.after(offset)


@dataclass(frozen=True, slots=True)
class _File:
    descriptor: int
    size: int
    identity: tuple[int, ...]


def _open_all(stack: ExitStack, files: Sequence[Path]) -> list[_File]:
    try:
        opened: list[BinaryIO] = [stack.enter_context(file.open("rb")) for file in files]
    except FileNotFoundError as error:
        raise NotFound(f"the version was collected: {error.filename} is gone", reason="NO_POLICY_VERSION") from error
    stats = [(file.fileno(), os.fstat(file.fileno())) for file in opened]
    return [
        _File(descriptor, stat.st_size, (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
        for descriptor, stat in stats
    ]


class _Reader:
    def __init__(self, files: list[_File], end: int, size: int, recent: RecentChunks) -> None:
        self._files = files
        self._end = end
        self._size = size
        self._recent = recent

    def after(self, offset: int) -> int:
        """Where the chunk that begins at `offset` ends."""
        _file, _begin, count = self._place(offset)
        return offset + count

    def read(self, offset: int, *, wait: bool = False) -> bytes | None:
        """The chunk that begins there. Without `wait`, None where the disk would have to be waited for."""
        file, begin, count = self._place(offset)
        key = (file.identity, offset, count)
        chunk = self._recent.get(key)
        if chunk is not None:
            return chunk
        data = bytearray(count)
        try:
            got = os.preadv(file.descriptor, [data], begin, 0 if wait else os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        if got < count:
            if not wait:
                return None
            raise DataLoss("a stored file became shorter while it was read")
        crc32c = google_crc32c.value(np.frombuffer(data, np.uint8))  # it takes no bytearray
        chunk = encode_chunk(offset, data, crc32c, self._size)
        self._recent.put(key, chunk)
        return chunk

    def _place(self, offset: int) -> tuple[_File, int, int]:
        """The file that a chunk is in, where it begins there, and how long it is."""
        begin = offset
        for file in self._files:
            if begin < file.size:
                grid = (offset // CHUNK_BYTES + 1) * CHUNK_BYTES
                return file, begin, min(grid, self._end, offset + file.size - begin) - offset
            begin -= file.size
        raise DataLoss("the stored files are shorter than they were")
