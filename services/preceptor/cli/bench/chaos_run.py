"""A chaos run from start to end: torment a run round by round, watch its speed, and check what it leaves.

`python -m preceptor.cli.bench.chaos_run SETTINGS.json`, as the first process of a world of its own; see chaos.py.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from preceptor.cli.bench.chaos_checks import (
    accounting_gaps,
    checkpoint_accounting,
    read_rows,
    trained_twice,
    versions_with_two_contents,
)
from preceptor.cli.bench.chaos_faults import Tormentor
from preceptor.cli.bench.chaos_plan import Fault, plan
from preceptor.cli.bench.chaos_speed import back_at, rate, trained_at
from preceptor.cli.bench.chaos_system import GROUP_SIZE, TormentedRun
from preceptor.cli.bench.chaos_world import Network, live
from preceptor.common.errors import DeadlineExceeded, PreceptorError
from preceptor.common.waiting import wait_until

_READY_TIMEOUT_S = 300.0
_BACK_TIMEOUT_S = 90.0
_ENDED_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ChaosSettings:
    """folder: for everything that is written. window_s: of the speed. calm_s: undisturbed before each round."""

    folder: str
    seed: int
    seconds: float
    kinds: tuple[str, ...]
    generators: int = 2
    workers: int = 2
    shortest_s: float = 1.0
    longest_s: float = 25.0
    window_s: float = 5.0
    calm_s: float = 8.0


@dataclass(frozen=True, slots=True)
class Round:
    """What happened in one round, in seconds and rollouts per second.

    before: the speed in the calm before it. repaired_s: when the last fault was put right, since the chaos began.
    start_s: from then on until whatever was killed was ready again. recovery_s: from then on until the speed was back;
    None: it never was.
    """

    faults: tuple[Fault, ...]
    before: float
    repaired_s: float
    start_s: float
    recovery_s: float | None


@dataclass(slots=True)
class Outcome:
    """What is reported. left: command lines of processes that outlived the system."""

    rounds: list[Round] = field(default_factory=list)
    exit_code: int = -1
    gaps: list[str] = field(default_factory=list)
    twice: list[int] = field(default_factory=list)
    two_contents: list[int] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    trained_rollouts: int = 0
    restarts: int = 0


class ChaosRun:
    """One run of it."""

    def __init__(self, settings: ChaosSettings) -> None:
        self._settings = settings
        network = Network()
        self._run = TormentedRun(
            Path(settings.folder), network, generators=settings.generators, workers=settings.workers
        )
        self._tormentor = Tormentor(self._run, network)
        self._begun = time.time()

    def run(self) -> Outcome:
        """Raises PreceptorError when the system does not start, or does not end."""
        outcome = Outcome()
        say("starting Redis, reward, rollout, generation and learner …")
        try:
            self._run.start()
            self._begun = calm_since = time.time()
            for faults in self._rounds():
                taken = self._round(faults, calm_since)
                outcome.rounds.append(taken)
                say(f"{time.time() - self._begun:5.0f} s  {told(taken)}")
                calm_since = time.time() if taken.recovery_s is None else self._begun + back_s(taken)
            say("ending the run …")
            outcome.exit_code = self._run.finish()
        finally:
            self._run.down()
        self._check(outcome)
        return outcome

    def _rounds(self) -> Iterator[tuple[Fault, ...]]:
        settings = self._settings
        rounds = plan(
            settings.seed,
            settings.kinds,
            self._run.victims,
            shortest_s=settings.shortest_s,
            longest_s=settings.longest_s,
        )
        while time.time() - self._begun < settings.seconds:
            yield next(rounds)

    def _round(self, faults: Sequence[Fault], calm_since: float) -> Round:
        settings = self._settings
        wait_until(lambda: time.time() - calm_since >= settings.calm_s, settings.calm_s + 1, "a calm stretch")
        before = rate(self._trained(), calm_since, time.time())
        for fault in faults:
            say(f"{time.time() - self._begun:5.0f} s  {fault}")
        undos = [(fault, self._tormentor.do(fault)) for fault in faults]
        begun, pause = time.monotonic(), threading.Event()
        for fault, undo in sorted(undos, key=lambda each: each[0].hold_s):
            pause.wait(max(0.0, begun + fault.hold_s - time.monotonic()))
            undo()
        repaired = time.time()
        start_s = self._wait_ready([fault.victim for fault in faults if fault.kind == "kill"], repaired)
        recovery_s = self._wait_back(repaired + start_s, before)
        return Round(tuple(faults), before, repaired - self._begun, start_s, recovery_s)

    def _wait_ready(self, killed: Sequence[str], repaired: float) -> float:
        if not killed:
            return 0.0
        try:
            wait_until(lambda: all(map(self._run.is_ready, killed)), _READY_TIMEOUT_S, "the restarted processes")
        except DeadlineExceeded as error:
            raise DeadlineExceeded(f"{error.message}\n{self._run.explain()}") from error
        return time.time() - repaired

    def _wait_back(self, since: float, before: float) -> float | None:
        found: list[float] = []

        def back() -> bool:
            at = back_at(self._trained(), since, before, time.time(), window_s=self._settings.window_s)
            found.extend([] if at is None else [at])
            return bool(found)

        try:
            wait_until(back, _BACK_TIMEOUT_S, "the speed", interval_s=0.25)
        except DeadlineExceeded:
            return None
        return found[0] - since

    def _history(self) -> list[dict[str, Any]]:
        return read_rows(self._run.run_folder / "history.jsonl")

    def _trained(self) -> list[tuple[float, int]]:
        return trained_at(self._history(), GROUP_SIZE)

    def _check(self, outcome: Outcome) -> None:
        history = self._history()
        for groups, attempts in (
            (self._run.summary()["groups"], self._run.summary()["attempts"]),
            checkpoint_accounting(self._run.run_folder),
        ):
            outcome.gaps += accounting_gaps(groups, attempts, history)
        outcome.twice = trained_twice(history)
        outcome.two_contents = versions_with_two_contents(history, self._run.run_folder / "policy")
        outcome.left = survivors()
        outcome.trained_rollouts = sum(rollouts for _, rollouts in trained_at(history, GROUP_SIZE))
        outcome.restarts = sum(row["event"] == "restored" for row in history)


def survivors() -> list[str]:
    """Command lines of what still lives in this world beside its first process and this one."""

    def left() -> list[psutil.Process]:
        others = [process for process in psutil.process_iter() if process.pid not in (1, psutil.Process().pid)]
        return [process for process in others if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    try:
        wait_until(lambda: not left(), _ENDED_TIMEOUT_S, "the last process to end")
    except DeadlineExceeded:
        return [f"{process.pid}: {' '.join(process.cmdline())}" for process in left()]
    return []


def back_s(taken: Round) -> float:
    """When the speed was back, since the chaos began."""
    return taken.repaired_s + taken.start_s + (taken.recovery_s or 0.0)


def told(taken: Round) -> str:
    """A round in words."""
    what = ", ".join(f"{fault.kind} {fault.victim}" for fault in taken.faults)
    started = f", {taken.start_s:.1f} s until ready" if taken.start_s else ""
    back = "never" if taken.recovery_s is None else f"after {taken.recovery_s:.1f} s"
    return f"{what}: {taken.before:.0f} rollouts/s before{started}, back {back}"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201  what a person watches meanwhile


def main() -> int:
    settings = ChaosSettings(**json.loads(Path(sys.argv[1]).read_text()))
    try:
        outcome = ChaosRun(settings).run()
    except PreceptorError as error:
        say(error.message)
        return 1
    Path(settings.folder, "outcome.json").write_text(json.dumps(asdict(outcome)))
    return 0


if __name__ == "__main__":
    sys.exit(live(main))
