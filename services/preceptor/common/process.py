"""Processes: which cores and threads one gets, and that none outlives its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Set as AbstractSet
from typing import NoReturn

from preceptor.common.errors import InvalidInput, PreceptorError

_PR_SET_PDEATHSIG = 1
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def parse_cores(cores: str) -> frozenset[int]:
    """Returns the core numbers of a list such as "0-1,3"; empty for "".

    Raises:
        InvalidInput: naming the part that is no number and no range.
    """
    found: set[int] = set()
    for part in filter(None, (piece.strip() for piece in cores.split(","))):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise InvalidInput(f'"{part}" is no core number or range: write a list such as "0-1,3"', field="cpu_cores")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def apply_cpu_plan(cores: str, threads: int) -> AbstractSet[int]:
    """Binds this process to its cores and bounds the threads of numeric libraries; call before importing them.

    Args:
        cores: as in `parse_cores`; "" leaves the affinity as it is.
        threads: 0 leaves the libraries' own choice.

    Returns:
        The cores this process may run on.

    Raises:
        InvalidInput: a core does not exist or is not ours to use.
    """
    wanted = parse_cores(cores)
    allowed = os.sched_getaffinity(0)
    if wanted - allowed:
        missing = ", ".join(map(str, sorted(wanted - allowed)))
        raise InvalidInput(
            f"core {missing} is not available to this process: choose among {sorted(allowed)}", field="cpu_cores"
        )
    if wanted:
        os.sched_setaffinity(0, wanted)
    if threads > 0:
        _limit_threads(threads)
    return os.sched_getaffinity(0)


def _limit_threads(threads: int) -> None:
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    torch = sys.modules.get("torch")  # the variables come too late for a torch that is loaded already
    if torch is not None:
        torch.set_num_threads(threads)


def die_with_parent(parent_pid: int | None = None, sig: int = signal.SIGKILL) -> None:
    """Asks the kernel to send `sig` to this process when its parent ends (Linux; elsewhere does nothing).

    The kernel watches the *thread* that forked this process: start such children from a thread that lives as long as
    the parent.

    Args:
        parent_pid: who the parent should be; when it is another one already, the parent has died before the call and
            this process ends at once.
        sig: what to send.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    if parent_pid is not None and os.getppid() != parent_pid:
        os.kill(os.getpid(), sig)


def new_process_group() -> int:
    """Makes this process the leader of its own group, unless it is one already. Returns the group's id."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    return os.getpgrp()


def kill_group(pgid: int, sig: int = signal.SIGKILL) -> bool:
    """Sends `sig` to every process of a group. Returns whether there was one (a zombie counts).

    Raises:
        ValueError: for the caller's own group or an id below 2.
    """
    if pgid < 2 or pgid == os.getpgrp():
        raise ValueError(f"refusing to signal process group {pgid}")
    try:
        os.killpg(pgid, sig)
    except ProcessLookupError:
        return False
    return True


def exit_with(error: PreceptorError, code: int = 1) -> NoReturn:
    """Ends the process with the error's message on standard error. Call from the main thread."""
    print(error.message, file=sys.stderr)  # noqa: T201  the line a person reads
    raise SystemExit(code)
