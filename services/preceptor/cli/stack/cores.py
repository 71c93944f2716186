"""Which cores and how many threads each process gets on one machine."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CoreShare:
    """A core list in taskset's notation ("0-1,3") and the number of compute threads to run on it."""

    cores: str
    threads: int


@dataclass(frozen=True, slots=True)
class CorePlan:
    """The shares of the processes that compute. Light services float over all cores."""

    everything: CoreShare
    learner: CoreShare
    generators: tuple[CoreShare, ...]


def available_cores() -> list[int]:
    """The cores that this process may run on, which a container or taskset may have cut down."""
    return sorted(os.sched_getaffinity(0))


def plan_cores(cores: list[int], generators: int) -> CorePlan:
    """Splits `cores` between the learner and `generators` engines so that none shares a core with another.

    vLLM pins its threads: two engines on one core, or an engine on a learner's core, make both wait for the slower
    thread. The learner gets half of the cores, at least one; the engines divide the rest. Where there are fewer cores
    than processes, shares repeat: slower, still correct.
    """
    everything = CoreShare(format_cores(cores), len(cores))
    if len(cores) == 1:
        return CorePlan(everything, everything, (everything,) * generators)
    learner_count = max(1, len(cores) - max(generators, len(cores) // 2))
    learner = cores[len(cores) - learner_count :]
    pool = cores[: len(cores) - learner_count]
    shares = []
    for index in range(generators):
        mine = pool[index::generators] or [pool[index % len(pool)]]
        shares.append(CoreShare(format_cores(mine), len(mine)))
    return CorePlan(everything, CoreShare(format_cores(learner), len(learner)), tuple(shares))


def format_cores(cores: list[int]) -> str:
    """[0, 1, 2, 5] as "0-2,5"."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
