"""`python -m preceptor.learner CONFIG --nproc N`: N ranks on this machine, which live and die together."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

from preceptor.common.process import die_with_parent, parse_cores
from preceptor.common.waiting import wait_until

_TRY_AGAIN = 75
_FINAL = (0, 1, 2, 143)
_GRACE_S = 30.0


def launch(arguments: Sequence[str], ranks: int, environment: Mapping[str, str]) -> int:
    """Runs `ranks` learner processes and returns the exit code of rank 0; 75 if one of them was lost.

    SIGTERM and SIGINT go to rank 0, which writes a checkpoint and dismisses the others.
    """
    port = str(_free_port())
    processes = [_start(arguments, rank, ranks, port, environment) for rank in range(ranks)]

    def forward(number: int, _frame: FrameType | None) -> None:
        if processes[0].poll() is None:
            processes[0].send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    try:
        wait_until(lambda: _someone_ended(processes), float("inf"), "a rank", interval_s=0.1)
        return _outcome(processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _someone_ended(processes: Sequence["subprocess.Popen[bytes]"]) -> bool:
    codes = [process.poll() for process in processes]
    return codes[0] is not None or any(code not in (None, 0) for code in codes)


def _outcome(processes: Sequence["subprocess.Popen[bytes]"]) -> int:
    codes = [process.poll() for process in processes]
    if codes[0] in _FINAL:
        return int(codes[0] or 0)
    rank, code = next((rank, code) for rank, code in enumerate(codes) if code is not None and code != 0)
    if codes[0] is None and code in (1, 2):  # its own error, not a lost connection: rank 0 cannot do better
        print(f"learner rank {rank} failed; the other ranks end", file=sys.stderr)  # noqa: T201
        return code
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    line = f"learner rank {rank} {how}; the other ranks end, starting again goes on from the last checkpoint"
    print(line, file=sys.stderr)  # noqa: T201  the one line a person reads
    return _TRY_AGAIN


def _start(
    arguments: Sequence[str], rank: int, ranks: int, port: str, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    env = {**environment, **{name: str(value) for name, value in place.items()}, **_cpu_share(rank, ranks, environment)}
    parent = os.getpid()
    return subprocess.Popen(
        [sys.executable, "-m", "preceptor.learner", *arguments],
        env=env,
        preexec_fn=lambda: die_with_parent(parent),
        start_new_session=True,  # a terminal's Ctrl-C reaches rank 0 once, through us
    )


def _cpu_share(rank: int, ranks: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Each rank its own cores, where there are enough."""
    cores = sorted(parse_cores(environment.get("PRECEPTOR_LEARNER_CPU_CORES", "")) or os.sched_getaffinity(0))
    share = cores[rank * len(cores) // ranks : (rank + 1) * len(cores) // ranks] or [cores[rank % len(cores)]]
    threads = int(environment.get("PRECEPTOR_LEARNER_THREADS", "0")) or len(share)
    return {
        "PRECEPTOR_LEARNER_CPU_CORES": ",".join(map(str, share)),
        "PRECEPTOR_LEARNER_THREADS": str(min(threads, len(share))),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
