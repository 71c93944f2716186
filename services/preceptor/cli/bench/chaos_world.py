"""A world of its own for a chaos run: network, mounts and processes that end with its first process, however that ends.

Linux namespaces: the machine's own network is never touched, and nothing can be left behind, for the kernel ends every
process of a process namespace, and with them its links and mounts, when the first one ends. Needs no root where the
kernel lets users make namespaces.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from preceptor.common.errors import FailedPrecondition

_PROGRAMS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "bridge": "iproute2", "tc": "iproute2"}
_NAMESPACES = Path("/run/netns")
_SUBNET = "10.99.0"
_HUB_ADDRESS = f"{_SUBNET}.254"
_DISABLED, _FORWARDING = "0", "3"  # states of a bridge port


def enter(argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` as the first process of a new world.

    Raises:
        FailedPrecondition: a program is missing, or this machine permits no namespaces; says which.
    """
    missing = sorted({package for program, package in _PROGRAMS.items() if _which(program) is None})
    if missing:
        raise FailedPrecondition(f"the chaos bench needs the system packages {', '.join(missing)}: install them")
    flags = ["--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        flags += ["--user", "--map-root-user"]
    tried = subprocess.run(["unshare", *flags, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise FailedPrecondition(
            f"this machine permits no network namespaces, which the chaos bench cuts links with: {tried.stderr.strip()}"
            "; run it as root, in a container with CAP_SYS_ADMIN",
            reason="NO_NAMESPACES",
        )
    return ["unshare", *flags, *argv]


def live(main: Callable[[], int]) -> int:
    """As the first process of a world: runs `main` in a child and reaps whatever is left to it. Returns its result."""
    for folder in ("/run", "/dev/shm"):
        _run("mount", "-t", "tmpfs", "tmpfs", folder)
    _NAMESPACES.mkdir()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # whoever is at the terminal means the child
    child = os.fork()
    if not child:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        code = main()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


class Network:
    """Processes on a bridge, each behind a link of its own that can be cut and slowed. The caller is on the bridge."""

    def __init__(self) -> None:
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "hub", "type", "bridge")
        _run("ip", "address", "add", f"{_HUB_ADDRESS}/24", "dev", "hub")
        _run("ip", "link", "set", "hub", "up")
        self._places: dict[str, int] = {}

    def add(self, name: str) -> None:
        """Makes a place to run a process in."""
        index = self._places[name] = len(self._places) + 1
        link = _link(index)
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", link, "master", "hub", "up")
        for words in (
            ("address", "add", f"{self.address(name)}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
            ("route", "add", "default", "via", _HUB_ADDRESS),
        ):
            _run("ip", "-n", name, *words)

    def address(self, name: str) -> str:
        return f"{_SUBNET}.{self._places[name]}"

    def inside(self, name: str) -> tuple[str, ...]:
        """The prefix of a command line that runs it in a place."""
        return (_which("nsenter") or "nsenter", f"--net={_NAMESPACES / name}", "--")

    def cut(self, name: str, *, silent: bool) -> None:
        """Nothing goes in or out. silent: packets vanish; otherwise the link is down, which both ends can see."""
        if silent:
            _run("bridge", "link", "set", "dev", self._link(name), "state", _DISABLED)
        else:
            _run("ip", "link", "set", self._link(name), "down")

    def mend(self, name: str) -> None:
        """Ends a cut of either kind."""
        _run("ip", "link", "set", self._link(name), "up")
        _run("bridge", "link", "set", "dev", self._link(name), "state", _FORWARDING)

    def slow(self, name: str, kbit_per_s: int) -> None:
        """What goes to the place trickles; what does not fit the queue is dropped."""
        limits = ("rate", f"{kbit_per_s}kbit", "burst", "16kb", "latency", "400ms")
        _run("tc", "qdisc", "add", "dev", self._link(name), "root", "tbf", *limits)

    def unslow(self, name: str) -> None:
        _run("tc", "qdisc", "del", "dev", self._link(name), "root")

    def _link(self, name: str) -> str:
        return _link(self._places[name])


def _link(index: int) -> str:
    return f"place{index}"


def _which(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def _run(program: str, *words: str) -> None:
    """Runs a system program; FailedPrecondition with what it says when it fails."""
    done = subprocess.run([_which(program) or program, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FailedPrecondition(f"`{program} {' '.join(words)}` failed: {(done.stderr or done.stdout).strip()}")
