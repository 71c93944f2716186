"""What the journals and the export say together."""

import socket
import threading
from contextlib import suppress

import pytest

from preceptor.cli.bench.cut_proxy import CutProxy
from preceptor.cli.bench.feedback_journals import judge


def line(what: str, comparison: str, **ids: str) -> dict[str, str]:
    return {"what": what, "comparison_id": comparison, **ids}


def rater(lease: str, event: str, comparison: str = "c") -> list[dict[str, str]]:
    return [
        line("leased", comparison, lease_id=lease),
        line("sent", comparison, event_id=event),
        line("acknowledged", comparison, event_id=event),
    ]


def test_all_is_well_when_every_promise_was_kept() -> None:
    journals = {"r1": rater("l1", "e1"), "r2": rater("l2", "e2")}
    verdict = judge(journals, [("e1", "r1", "c"), ("e2", "r2", "c")], overlap=2)
    assert verdict.acknowledged == 2
    assert (verdict.lost, verdict.unknown, verdict.twice, verdict.shared_leases, verdict.overfull) == (0, 0, 0, 0, 0)


def test_every_broken_promise_is_seen() -> None:
    journals = {"r1": rater("l1", "e1"), "r2": rater("l1", "e2"), "r3": rater("l3", "e3")}
    journals["r3"] += [line("leased", "c", lease_id="l4")]
    exported = [("e1", "r1", "c"), ("e1", "r1", "c"), ("e9", "r9", "c"), ("e3", "r3", "c")]
    verdict = judge(journals, exported, overlap=2)
    assert verdict.lost == 1  # e2
    assert verdict.unknown == 1  # e9
    assert verdict.twice == 2  # e1 as an event, and as r1's answer
    assert verdict.shared_leases == 1  # l1
    assert verdict.overfull == 1
    assert verdict.changed_leases == 1  # r3 had l3 and l4


def test_the_proxy_passes_breaks_and_mends() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with suppress(OSError):
                peer.sendall(peer.recv(10))

    threading.Thread(target=echo, daemon=True).start()
    with CutProxy(server.getsockname()[1]) as proxy:
        host, _, port = proxy.address.partition(":")

        def connect() -> socket.socket:
            one = socket.create_connection((host, int(port)), 5)
            one.sendall(b"hello")
            return one

        with connect() as one:
            assert one.recv(10) == b"hello"
            proxy.cut()
            with pytest.raises(OSError, match="reset"):
                one.recv(10) or raise_reset()
        with connect() as refused, pytest.raises(OSError, match="reset"):
            refused.recv(10) or raise_reset()
        proxy.mend()
        with connect() as again:
            assert again.recv(10) == b"hello"
    server.close()


def raise_reset() -> None:
    """An end of file is a broken connection too."""
    raise ConnectionResetError("connection reset")
