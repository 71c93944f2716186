"""`preceptor demo --verify`: several demos, and whether the rankings, and nothing else, move the policy."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from preceptor.cli.commands.demo import DemoOptions, run_one
from preceptor.cli.output import print_json, print_table
from preceptor.cli.stack.cores import available_cores
from preceptor.cli.stack.layout import StackOptions

MIN_GAIN_SD = 1.5
MAX_FLIPPED_GAIN_SD = -0.7
MAX_CONTROL_GAIN_SD = 0.5
MIN_DIVERSITY_KEPT = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """One demo and its verdict. gain_sd: (gold.final - gold.sft) in standard deviations of the SFT samples."""

    name: str
    seed: int
    labels: str
    rl: bool
    gain_sd: float
    distinct_kept: float
    distinct_bigrams_kept: float
    mismatch: float | None
    seconds: float
    holds: bool
    goal: str


def variants() -> Iterator[tuple[str, dict[str, Any]]]:
    """The demos of a verification, by name."""
    for seed in range(3):
        yield f"seed-{seed}", {"seed": seed}
    yield "flipped", {"labels": "flipped"}
    yield "shuffled", {"labels": "shuffled"}
    yield "no-rl", {"rl": False}


def verify_demo(folder: Path, options: StackOptions, profile: str, *, as_json: bool) -> int:
    """Runs all variants one after the other; returns 0 when every goal holds. Writes verify.json into `folder`."""
    outcomes = []
    for name, changes in variants():
        click.echo(f"— {name} —", err=True)
        what = DemoOptions(profile=profile, **changes)
        outcomes.append(judge(name, what, run_one(folder / name, options, what)))
        write_outcomes(folder / "verify.json", profile, outcomes)
    if as_json:
        print_json(json.loads((folder / "verify.json").read_text()))
    else:
        rows = [
            [o.name, f"{o.gain_sd:+.2f}", f"{o.distinct_kept:.2f}", f"{o.seconds:.0f}", o.goal, o.holds]
            for o in outcomes
        ]
        print_table(["demo", "gain (SD)", "distinct kept", "seconds", "goal", "holds"], rows)
        click.echo(f"\n{folder / 'verify.json'}")
    return 0 if all(outcome.holds for outcome in outcomes) else 1


def judge(name: str, what: DemoOptions, report: dict[str, Any]) -> Outcome:
    """The verdict on one report."""
    gold, diversity = report["gold"], report["diversity"]
    gain = (gold["final"]["mean"] - gold["sft"]["mean"]) / gold["sft"]["sd"]
    kept = {key: diversity["final"][key] / max(1e-9, diversity["sft"][key]) for key in ("distinct", "distinct_bigrams")}
    goal, holds = verdict(what, gain, min(kept.values()))
    return Outcome(
        name=name,
        seed=what.seed,
        labels=what.labels,
        rl=what.rl,
        gain_sd=gain,
        distinct_kept=kept["distinct"],
        distinct_bigrams_kept=kept["distinct_bigrams"],
        mismatch=report.get("mismatch", {}).get("logprob_abs_mean"),
        seconds=report["seconds"]["total"],
        holds=holds,
        goal=goal,
    )


def verdict(what: DemoOptions, gain: float, kept: float) -> tuple[str, bool]:
    """The goal of a variant in words, and whether it holds."""
    if not what.rl or what.labels == "shuffled":
        return f"gain within ±{MAX_CONTROL_GAIN_SD} SD", abs(gain) <= MAX_CONTROL_GAIN_SD
    if what.labels == "flipped":
        return f"gain at most {MAX_FLIPPED_GAIN_SD} SD", gain <= MAX_FLIPPED_GAIN_SD
    words = f"gain at least {MIN_GAIN_SD} SD, half of the diversity kept"
    return words, gain >= MIN_GAIN_SD and kept >= MIN_DIVERSITY_KEPT


def write_outcomes(path: Path, profile: str, outcomes: list[Outcome]) -> None:
    """Writes what was measured so far, with the machine it was measured on."""
    environment = {"cpu": cpu_model(), "cores": len(available_cores()), "python": platform.python_version()}
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    document = {
        "bench": "demo-verify",
        "profile": profile,
        "environment": environment | {"memory_gib": round(memory_gib, 1)},
        "demos": [asdict(outcome) for outcome in outcomes],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def cpu_model() -> str:
    """The processor's name as the kernel tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
