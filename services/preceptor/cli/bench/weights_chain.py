"""The plain chains that weight transports are held against.

By memcpy: into a segment of shared memory and on into each receiver's buffer; nothing is verified. By TCP: the sender
takes the BLAKE3 digest of its bytes, as a publisher does, each receiver fills its buffer from a socket of its own and
compares the digest, as a generator does. The bare part of that, the bytes alone, is told apart. Buffers are memory that
was touched before, which is where a generator receives as well: into the files of the version before the last.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from blake3 import blake3

_CHUNK_BYTES = 1024 * 1024


def write_segment(data: memoryview, segment: Path) -> None:
    """memcpy of the bytes into a new file of shared memory."""
    with segment.open("w+b") as file:
        os.ftruncate(file.fileno(), len(data))
        np.copyto(np.memmap(file, np.uint8, "r+"), np.frombuffer(data, np.uint8))


def read_segment(segment: Path, buffer: bytearray) -> None:
    """memcpy of a file of shared memory into a receiver's buffer."""
    np.copyto(np.frombuffer(buffer, np.uint8), np.memmap(segment, np.uint8, "r"))


@contextmanager
def tcp_sender(data: memoryview) -> Iterator[int]:
    """Sends the bytes to whoever connects, each by a thread. Yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, lambda peer: peer.sendall(data)), daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)


def digest_of(data: memoryview | bytearray) -> str:
    """The digest of all bytes, by all cores."""
    return blake3(data, max_threads=blake3.AUTO).hexdigest()


def tcp_verified(port: int, buffer: bytearray, digest: str) -> None:
    """As tcp_receive; ConnectionError when other bytes came than were sent."""
    tcp_receive(port, buffer)
    if digest_of(buffer) != digest:
        raise ConnectionError("other bytes arrived than were sent")


def tcp_receive(port: int, buffer: bytearray) -> None:
    """Fills a receiver's buffer from a tcp_sender."""
    view, at = memoryview(buffer), 0
    with socket.create_connection(("127.0.0.1", port), timeout=600) as peer:
        while at < len(view):
            got = peer.recv_into(view[at : at + _CHUNK_BYTES])
            if not got:
                raise ConnectionError("the sender hung up")
            at += got


def _accept(server: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    def answer(peer: socket.socket) -> None:
        with peer:
            serve(peer)

    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return  # closed
        threading.Thread(target=answer, args=(peer,), daemon=True).start()
