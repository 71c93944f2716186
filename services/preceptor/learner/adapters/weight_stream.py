"""A version's files as the chunks of WeightService.FetchWeights."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from preceptor.api.learner.v1.weight_service_pb2 import FetchWeightsResponse
from preceptor.common.errors import DataLoss, InvalidInput, NotFound

CHUNK_BYTES = 1024 * 1024
_CHUNKS_AHEAD = 8


async def stream_files(files: Sequence[Path], offset: int, length: int) -> AsyncIterator[FetchWeightsResponse]:
    """Yields `length` bytes (0 = all) of the files' concatenation, from `offset` on. The next ones are read ahead.

    Raises:
        InvalidInput: offset or length is outside the files.
        NotFound: a file is gone.
    """
    with ExitStack() as stack:
        opened = await asyncio.to_thread(_open_all, stack, files)
        size = sum(part for _, part in opened)
        if not 0 <= offset <= size:
            raise InvalidInput(f"offset_bytes {offset} is outside [0, {size}]", field="offset_bytes")
        if not 0 <= length <= size - offset:
            raise InvalidInput(f"length_bytes {length} is outside [0, {size - offset}]", field="length_bytes")
        end = offset + length if length else size
        ahead = asyncio.ensure_future(asyncio.to_thread(_read_batch, opened, offset, end, size))
        try:
            while batch := await ahead:
                offset = batch[-1].offset_bytes + len(batch[-1].data)
                ahead = asyncio.ensure_future(asyncio.to_thread(_read_batch, opened, offset, end, size))
                for chunk in batch:
                    yield chunk
        finally:
            await asyncio.wait([ahead])  # it reads what is closed next


def _open_all(stack: ExitStack, files: Sequence[Path]) -> list[tuple[BinaryIO, int]]:
    try:
        opened = [stack.enter_context(file.open("rb", buffering=0)) for file in files]
    except FileNotFoundError as error:
        raise NotFound(f"the version was collected: {error.filename} is gone", reason="NO_POLICY_VERSION") from error
    return [(file, os.fstat(file.fileno()).st_size) for file in opened]  # type: ignore[misc]


def _read_batch(files: list[tuple[BinaryIO, int]], offset: int, end: int, size: int) -> list[FetchWeightsResponse]:
    # Several chunks for each change of threads: with one each, four receivers together got half of what they get now.
    batch: list[FetchWeightsResponse] = []
    while offset < end and len(batch) < _CHUNKS_AHEAD:
        batch.append(_read(files, offset, end, size))
        offset += len(batch[-1].data)
    return batch


def _read(files: list[tuple[BinaryIO, int]], offset: int, end: int, size: int) -> FetchWeightsResponse:
    begin = offset
    for file, part in files:
        if begin < part:
            data = os.pread(file.fileno(), min(CHUNK_BYTES, end - offset, part - begin), begin)
            if not data:
                raise DataLoss("a stored file became shorter while it was read")
            return FetchWeightsResponse(
                offset_bytes=offset, data=data, crc32c=google_crc32c.value(data), size_bytes=size
            )
        begin -= part
    raise DataLoss("the stored files are shorter than they were")
