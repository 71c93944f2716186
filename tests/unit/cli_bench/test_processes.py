"""The processes of a bench: what they say when they end, and that they end with it."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from preceptor.cli.bench.processes import Peer, service_env
from preceptor.common.errors import DeadlineExceeded, FailedPrecondition
from preceptor.common.process import kill_group
from preceptor.common.waiting import wait_until

ECHO = """
import subprocess, sys
from preceptor.cli.bench.processes import Answering

answering = Answering()
print("a library prints this")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
for request in answering.requests():
    if request == {"end": True}:
        raise SystemExit("this is why")
    if request != {"silent": True}:
        answering.reply({"got": request, "child": child.pid})
"""


@pytest.fixture
def peer_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "echo_peer.py").write_text(ECHO)
    services = Path(__file__).parents[3] / "services"
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{services}")
    return "echo_peer"


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_peer_answers_line_by_line_whatever_its_libraries_print(peer_module: str, tmp_path: Path) -> None:
    with Peer(peer_module, {}, tmp_path / "log") as peer:
        peer.wait_ready(30)
        answers = [peer.ask({"n": n}, 10) for n in range(3)]
    assert [answer["got"] for answer in answers] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert "a library prints this" in (tmp_path / "log").read_text()


def test_nothing_of_the_group_is_left(peer_module: str, tmp_path: Path) -> None:
    with Peer(peer_module, {}, tmp_path / "log") as peer:
        child = peer.wait_ready(30).ask({}, 10)["child"]
        assert alive(child)
    wait_until(lambda: not alive(child), 10, "the peer's child to end")


def test_a_stopped_group_does_not_run_and_goes_on(peer_module: str, tmp_path: Path) -> None:
    with Peer(peer_module, {}, tmp_path / "log") as peer:
        peer.wait_ready(30)
        with peer.stopped():
            running = psutil.Process(peer.process.pid)
            wait_until(lambda: running.status() == psutil.STATUS_STOPPED, 10, "it to stop")
        assert peer.ask({"n": 1}, 10)["got"] == {"n": 1}


def test_a_peer_that_ends_shows_the_end_of_its_log(peer_module: str, tmp_path: Path) -> None:
    with Peer(peer_module, {}, tmp_path / "log") as peer:
        peer.wait_ready(30)
        with pytest.raises(FailedPrecondition, match=r"echo_peer ended with 1:\n(.|\n)*this is why"):
            peer.ask({"end": True}, 10)


def test_a_silent_peer_is_late(peer_module: str, tmp_path: Path) -> None:
    with Peer(peer_module, {}, tmp_path / "log") as peer:
        peer.wait_ready(30)
        with pytest.raises(DeadlineExceeded, match=r"gave no answer in 0\.2 s"):
            peer.ask({"silent": True}, 0.2)


def test_a_peer_dies_with_a_killed_bench(peer_module: str, tmp_path: Path) -> None:
    script = f"""
        from pathlib import Path
        from preceptor.cli.bench.processes import Peer
        peer = Peer({peer_module!r}, {{}}, Path({str(tmp_path / "log")!r})).wait_ready(30)
        with peer.stopped():
            print(peer.process.pid, flush=True)
            input()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as bench:
        assert bench.stdout is not None
        pid = int(bench.stdout.readline())
        os.kill(bench.pid, signal.SIGKILL)
    try:
        wait_until(lambda: not alive(pid), 10, "the stopped peer to end")
    finally:
        kill_group(pid)  # its own child is on no leash


def test_settings_become_the_services_variables() -> None:
    assert service_env("reward", {"threads": 2, "models": "a=b"}) == {
        "PRECEPTOR_REWARD_THREADS": "2",
        "PRECEPTOR_REWARD_MODELS": "a=b",
    }
