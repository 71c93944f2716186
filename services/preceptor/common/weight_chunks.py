"""FetchWeightsResponse on the wire without a message object: protobuf would copy every chunk once more on each side."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from preceptor.api.learner.v1.weight_service_pb2 import FetchWeightsResponse
from preceptor.common.errors import DataLoss

CHUNK_BYTES = 1024 * 1024
_OFFSET, _DATA, _CRC, _SIZE = 0x08, 0x12, 0x1D, 0x20  # field number and wire type of each field of the message


@dataclass(frozen=True, slots=True)
class Chunk:
    """One FetchWeightsResponse; `data` is a view into what arrived."""

    offset_bytes: int
    data: memoryview
    crc32c: int
    size_bytes: int


def encode_chunk(offset: int, data: bytes | bytearray, crc32c: int, size: int) -> bytes:
    """Returns a serialised FetchWeightsResponse."""
    head = FetchWeightsResponse(offset_bytes=offset, crc32c=crc32c, size_bytes=size)
    return b"".join((head.SerializeToString(), bytes((_DATA,)), _varint(len(data)), data))


def decode_chunk(message: bytes) -> Chunk:
    """Returns a serialised FetchWeightsResponse; fields may stand in any order. DataLoss when it is none."""
    view, at = memoryview(message), 0
    numbers = {_OFFSET: 0, _CRC: 0, _SIZE: 0}
    data = view[:0]
    while at < len(view):
        tag, at = view[at], at + 1
        if tag == _DATA:
            length, at = _read_varint(view, at)
            data, at = view[at : at + length], at + length
        elif tag == _CRC:
            numbers[tag], at = int.from_bytes(view[at : at + 4], "little"), at + 4
        elif tag in numbers:
            numbers[tag], at = _read_varint(view, at)
        else:
            return _decode_any(message)  # a newer server's field
    if at != len(view):
        raise DataLoss("a chunk is cut short")
    return Chunk(numbers[_OFFSET], data, numbers[_CRC], numbers[_SIZE])


def _decode_any(message: bytes) -> Chunk:
    try:
        parsed = FetchWeightsResponse.FromString(message)
    except DecodeError as error:
        raise DataLoss(f"a chunk is no FetchWeightsResponse: {error}") from error
    return Chunk(parsed.offset_bytes, memoryview(parsed.data), parsed.crc32c, parsed.size_bytes)


def _varint(value: int) -> bytes:
    coded = bytearray()
    while value > 0x7F:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    coded.append(value)
    return bytes(coded)


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(view) and shift < 64:
        byte, at = view[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise DataLoss("a chunk is cut short")
