"""Chunks on the wire: what protobuf writes and reads, and nothing believed that is cut."""

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.api.learner.v1.weight_service_pb2 import FetchWeightsResponse
from preceptor.common.errors import DataLoss
from preceptor.common.weight_chunks import decode_chunk, encode_chunk

SIZES = st.integers(0, 2**62)


@given(offset=SIZES, size=SIZES, data=st.binary(max_size=300))
def test_protobuf_reads_what_is_encoded(offset: int, size: int, data: bytes) -> None:
    message = FetchWeightsResponse.FromString(encode_chunk(offset, data, google_crc32c.value(data), size))
    assert (message.offset_bytes, message.size_bytes, message.data) == (offset, size, data)
    assert message.crc32c == google_crc32c.value(data)


@given(offset=SIZES, size=SIZES, data=st.binary(max_size=300), crc=st.integers(0, 2**32 - 1))
def test_what_protobuf_writes_is_decoded(offset: int, size: int, data: bytes, crc: int) -> None:
    message = FetchWeightsResponse(offset_bytes=offset, size_bytes=size, data=data, crc32c=crc).SerializeToString()
    chunk = decode_chunk(message)
    assert (chunk.offset_bytes, chunk.size_bytes, bytes(chunk.data), chunk.crc32c) == (offset, size, data, crc)


def test_a_field_of_a_newer_server_is_passed_over() -> None:
    unknown = b"\xf8\x01\x07"  # field 31, a varint
    chunk = decode_chunk(unknown + encode_chunk(5, b"data", 1, 9))
    assert (chunk.offset_bytes, bytes(chunk.data), chunk.size_bytes) == (5, b"data", 9)


@given(cut=st.integers(1, 39))
def test_a_message_cut_short_is_refused_or_lacks_data(cut: int) -> None:
    whole = encode_chunk(1 << 40, b"x" * 20, 7, 1 << 41)
    try:
        assert len(decode_chunk(whole[:-cut]).data) == 0, "cut between two fields: the caller misses the bytes"
    except DataLoss:
        return


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(DataLoss):
        decode_chunk(b"\xff\xff\xff\xff")
