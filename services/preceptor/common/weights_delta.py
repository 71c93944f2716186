"""The lossless sparse delta between two versions of a model: only elements whose stored bits changed.

A delta is a safetensors file. Under a tensor's name stands a U8 tensor: one record per block of 2**20 elements,

    u8 kind (0 same, 1 sparse, 2 dense), u32 changed elements, u32 payload bytes, payload

A sparse payload is one zstandard frame (with its own checksum) of the gaps between changed elements, a byte each (255 =
255 unchanged ones, and the gap goes on), followed by the XOR of old and new bits, least significant bytes first, plane
by plane. Adam moves a bf16 weight by at most one unit in the last place or two, so that the planes are nearly constant.
A dense payload is the new bytes as they are. A tensor without changes is not in the file.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from preceptor.common.errors import DataLoss, FailedPrecondition
from preceptor.common.weights_manifest import StoredTensor, read_tensors

DELTA_FILE = "delta.safetensors"
BLOCK_ELEMENTS = 1 << 20
_SAME, _SPARSE, _DENSE = 0, 1, 2
_RECORD = struct.Struct("<BII")
_LEVEL = 1  # level 3 is a third slower for 1 % less
_LONG_GAP = 255
_WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}
_FORMAT = "preceptor-sparse-delta-1"
Words = np.ndarray[Any, np.dtype[Any]]


def write_delta(base_dir: Path, new_dir: Path, file: Path, *, limit_bytes: int | None = None) -> int | None:
    """Writes what turns a folder's tensors into another's. Returns its size in bytes, None past `limit_bytes`.

    Raises:
        FailedPrecondition: the folders differ in the names, shapes or dtypes of their tensors.
    """
    old = {tensor.name: tensor for tensor in read_tensors(base_dir)}
    new = read_tensors(new_dir)
    if [(t.name, t.dtype, t.shape) for t in new] != [(t.name, t.dtype, t.shape) for t in old.values()]:
        raise FailedPrecondition("a delta needs two versions of one model: names, shapes or dtypes differ")
    budget = _Budget(limit_bytes)

    def encode(tensor: StoredTensor) -> list[bytes]:
        before, after = _bytes_of(old[tensor.name]), _bytes_of(tensor)
        return budget.take(encode_tensor(before, after, tensor.dtype))

    with ThreadPoolExecutor(_threads()) as pool:
        blobs = list(pool.map(encode, new))
    if budget.spent:
        return None
    return _write_file(file, {tensor.name: blob for tensor, blob in zip(new, blobs, strict=True) if blob})


def apply_delta(file: Path, folder: Path) -> None:
    """Turns a folder's tensors into the newer version's, in place. The result is to be verified by its manifest.

    Raises:
        DataLoss: the delta is broken or does not fit the folder, which is then of no use any more.
    """
    if not file.is_file():
        raise DataLoss(f"{file.parent} has no {file.name}", reason="CORRUPT_DELTA")
    targets = {tensor.name: tensor for tensor in read_tensors(folder)}
    deltas = [tensor for tensor in read_tensors(file.parent) if tensor.file == file]
    unknown = [delta.name for delta in deltas if delta.name not in targets]
    if unknown:
        raise DataLoss(f"the delta changes tensor {unknown[0]}, which the model lacks", field=unknown[0])

    def patch(delta: StoredTensor) -> None:
        target = targets[delta.name]
        try:
            apply_tensor(_bytes_of(delta), _writable(target), target.dtype)
        except DataLoss as error:
            raise DataLoss(
                f"the delta of tensor {delta.name} is broken: {error.message}", reason="CORRUPT_DELTA", field=delta.name
            ) from error

    with ThreadPoolExecutor(_threads()) as pool:
        for _ in pool.map(patch, deltas):
            pass


def encode_tensor(old: Words, new: Words, dtype: str) -> Iterator[bytes]:
    """Yields the records of a tensor, given as bytes [size_bytes] before and after; nothing if it is unchanged."""
    width = _width(dtype, len(new))
    old_words, new_words = old.view(f"<u{width}"), new.view(f"<u{width}")
    unchanged = 0
    for begin in range(0, len(new_words), BLOCK_ELEMENTS):
        record = _encode_block(old_words[begin : begin + BLOCK_ELEMENTS], new_words[begin : begin + BLOCK_ELEMENTS])
        if record is None:
            unchanged += 1
            continue
        yield from [_RECORD.pack(_SAME, 0, 0)] * unchanged
        unchanged = 0
        yield record


def apply_tensor(blob: Words, target: Words, dtype: str) -> None:
    """Applies a tensor's records to its old bytes [size_bytes], in place; DataLoss if they are broken."""
    width = _width(dtype, len(target))
    words = target.view(f"<u{width}")
    at = begin = 0
    while at < len(blob):
        if at + _RECORD.size > len(blob) or begin >= len(words):
            raise DataLoss("it is cut short or too long")
        kind, count, size = _RECORD.unpack(bytes(blob[at : at + _RECORD.size]))
        at += _RECORD.size
        if at + size > len(blob):
            raise DataLoss("it is cut short")
        _apply_block(kind, count, bytes(blob[at : at + size]), words[begin : begin + BLOCK_ELEMENTS])
        at += size
        begin += BLOCK_ELEMENTS


def _encode_block(old: Words, new: Words) -> bytes | None:
    changed = np.flatnonzero(old != new)
    if not len(changed):
        return None
    if len(changed) < len(new) // 2 + 2:
        bits = old[changed] ^ new[changed]
        planes = bits.view(np.uint8).reshape(-1, new.itemsize).T
        compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        payload = compressor.compress(_gap_bytes(changed).tobytes() + planes.tobytes())
        if len(payload) < new.nbytes:
            return _RECORD.pack(_SPARSE, len(changed), len(payload)) + payload
    return _RECORD.pack(_DENSE, len(changed), new.nbytes) + new.tobytes()


def _apply_block(kind: int, count: int, payload: bytes, target: Words) -> None:
    if kind == _DENSE:
        if len(payload) != target.nbytes:
            raise DataLoss("a dense block has another size than its elements")
        target[:] = np.frombuffer(payload, target.dtype)
    elif kind == _SPARSE:
        _apply_sparse(count, payload, target)
    elif kind != _SAME or payload:
        raise DataLoss(f"a block is of unknown kind {kind}")


def _apply_sparse(count: int, payload: bytes, target: Words) -> None:
    planes_bytes = count * target.itemsize
    # No valid frame is longer: a corrupted one must not make us allocate what it says.
    most = planes_bytes + count + len(target) // _LONG_GAP + 1
    try:
        size = zstandard.frame_content_size(payload)
        if not planes_bytes <= size <= most or count > len(target):
            raise DataLoss("a block claims more than its elements")
        data = np.frombuffer(zstandard.ZstdDecompressor().decompress(payload), np.uint8)
    except zstandard.ZstdError as error:
        raise DataLoss(f"a block does not decompress: {error}") from error
    changed = _positions(data[: size - planes_bytes], count)
    if count and changed[-1] >= len(target):
        raise DataLoss("a block changes elements past its end")
    planes = data[size - planes_bytes :].reshape(target.itemsize, count)
    bits = np.ascontiguousarray(planes.T).reshape(-1).view(target.dtype)
    target[changed] ^= bits


def _gap_bytes(changed: Words) -> Words:
    gaps = np.diff(changed, prepend=-1) - 1
    if int(gaps.max()) < _LONG_GAP:
        return gaps.astype(np.uint8)
    whole, rest = np.divmod(gaps, _LONG_GAP)
    coded = np.full(int(whole.sum()) + len(gaps), _LONG_GAP, np.uint8)
    coded[np.cumsum(whole + 1) - 1] = rest
    return coded


def _positions(coded: Words, count: int) -> Words:
    total: Words = np.cumsum(coded, dtype=np.int64)
    if len(coded) != count:
        ends = np.flatnonzero(coded != _LONG_GAP)
        if len(ends) != count:
            raise DataLoss("a block has another number of gaps than of elements")
        total = total[ends]
    elif count and int(coded.max()) == _LONG_GAP:
        raise DataLoss("a block's gaps do not end")
    total += np.arange(count)
    return total


class _Budget:
    """Stops all encoding threads once the delta is no longer worth it."""

    def __init__(self, limit_bytes: int | None) -> None:
        self._left = limit_bytes
        self._lock = threading.Lock()
        self.spent = False

    def take(self, records: Iterable[bytes]) -> list[bytes]:
        taken = []
        for record in [] if self.spent else records:
            taken.append(record)
            with self._lock:
                if self._left is not None:
                    self._left -= len(record)
                    self.spent = self.spent or self._left < 0
            if self.spent:
                return []
        return taken


def _writable(tensor: StoredTensor) -> Words:
    """A tensor's bytes; what is written to them is written to the file."""
    if not tensor.size_bytes:
        return np.empty(0, np.uint8)
    mapped: Words = np.memmap(tensor.file, np.uint8, "r+")
    return mapped[tensor.begin : tensor.end]


def _bytes_of(tensor: StoredTensor) -> Words:
    if not tensor.size_bytes:
        return np.empty(0, np.uint8)
    with tensor.file.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, np.uint8, tensor.size_bytes, tensor.begin)


def _write_file(file: Path, blobs: dict[str, list[bytes]]) -> int:
    header: dict[str, Any] = {"__metadata__": {"format": _FORMAT}}
    end = 0
    for name, records in blobs.items():
        size = sum(map(len, records))
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for records in blobs.values():
            out.writelines(records)
    return 8 + len(text) + end


def _width(dtype: str, size_bytes: int) -> int:
    width = _WIDTHS.get(dtype, 1)
    return width if size_bytes % width == 0 else 1


def _threads() -> int:
    return min(4, len(os.sched_getaffinity(0)))
