"""Free ports for processes of which several may run on one host."""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence

from preceptor.common.errors import FailedPrecondition

SPAN = 9
"""How many processes of a kind one host is meant to run."""


def bindable(host: str, port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_offset(host: str, ports: Sequence[int], *, taken: Collection[int] = (), span: int = SPAN) -> int:
    """Returns the least offset, below span, at which all of the ports are free and none is in `taken`.

    Raises:
        FailedPrecondition: there is none.
    """
    for offset in range(span):
        moved = [port + offset for port in ports]
        if not any(port in taken for port in moved) and all(bindable(host, port) for port in moved):
            return offset
    ranges = " and ".join(f"{port} to {port + span - 1}" for port in ports)
    raise FailedPrecondition(f"no free ports on {host}: {ranges} are all in use", reason="NO_FREE_PORT")
