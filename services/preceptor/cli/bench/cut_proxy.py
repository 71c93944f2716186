"""A TCP proxy whose cable can be pulled: connections break in the middle of what they carry."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024
_CONNECT_TIMEOUT_S = 5.0


class CutProxy:
    """Passes bytes between loopback clients and one port. Use as a context manager.

    While cut, connections that there were are gone without a word (reset), and new ones are refused.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._cut = False
        self._closed = False
        self.cuts = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed = True
        self.cut()
        self._listener.close()

    def cut(self) -> None:
        """Breaks every connection, and refuses new ones until `mend`."""
        with self._lock:
            self._cut = True
            self.cuts += 1
            broken, self._open = self._open, set()
        for one in broken:
            _reset(one)

    def mend(self) -> None:
        """Lets connections through again."""
        with self._lock:
            self._cut = False

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target_port), _CONNECT_TIMEOUT_S)
        except OSError:
            _reset(client)
            return
        server.settimeout(None)
        with self._lock:
            refused = self._cut
            if not refused:
                self._open |= {client, server}
        if refused:
            _reset(client)
            _reset(server)
            return
        for one, other in ((client, server), (server, client)):
            threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(_CHUNK):
                other.sendall(data)
        with self._lock:
            self._open -= {one, other}
        _reset(one)
        _reset(other)


def _reset(one: socket.socket) -> None:
    """Ends the connection at once, whatever it still has to send."""
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
