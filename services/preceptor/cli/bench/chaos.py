"""`preceptor bench chaos`: an rl run whose processes are killed, frozen, cut off and slowed at random."""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from preceptor.cli.bench.chaos_plan import KINDS
from preceptor.cli.bench.chaos_run import ChaosSettings
from preceptor.cli.bench.chaos_world import enter
from preceptor.cli.bench.processes import leash
from preceptor.cli.bench.report import Figure, Report, at_most, environment, finish
from preceptor.cli.output import json_option
from preceptor.cli.rl_run import JOB
from preceptor.common.errors import InternalError, InvalidInput

_RECOVERY_S_AT_MOST = 10.0


@click.command()
@click.option("--minutes", type=click.FloatRange(0.1, 24 * 60), default=10.0, show_default=True, help="Of chaos.")
@click.option(
    "--seed", type=click.IntRange(0), default=None, help="Of what goes wrong when; drawn and printed if left out."
)
@click.option("--faults", default=",".join(KINDS), show_default=True, metavar="KIND,…", help="What may go wrong.")
@click.option("--generators", type=click.IntRange(1, 16), default=2, show_default=True)
@click.option("--workers", type=click.IntRange(1, 16), default=2, show_default=True, help="Rollout workers.")
@click.option("--longest", type=click.FloatRange(1), default=25.0, show_default=True, help="Seconds a fault is held.")
@click.option("--calm", type=click.FloatRange(1), default=8.0, show_default=True, help="Seconds before each round.")
@click.option("--window", type=click.FloatRange(1), default=5.0, show_default=True, help="Seconds speed is taken over.")
@click.option("--folder", type=click.Path(path_type=Path), default=None, help="Keep the run and its logs here.")
@json_option
def chaos(
    minutes: float,
    seed: int | None,
    faults: str,
    generators: int,
    workers: int,
    longest: float,
    calm: float,
    window: float,
    folder: Path | None,
    as_json: bool,
) -> int:
    """Kill, freeze, cut off and slow the processes of a small rl run at random, and check what it leaves.

    The run must finish, its accounting close, no group be trained twice, no version have two contents, no process be
    left, and the speed be back at 90 % within 10 s of each repair, what was killed having started. It runs in Linux
    namespaces of its own: the machine's network is not touched.
    """
    machine = environment()
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    click.echo(f"seed {seed}", err=True)
    home = Path(folder or tempfile.mkdtemp(prefix="preceptor-chaos-")).resolve()
    home.mkdir(parents=True, exist_ok=True)
    settings = ChaosSettings(
        str(home), seed, 60 * minutes, parse_kinds(faults), generators, workers, 1.0, longest, window, calm
    )
    outcome = torment(settings)
    report = Report("chaos", figures_of(outcome), {"minutes": minutes, **asdict(settings)}, machine)
    for problem in (*outcome["gaps"], *outcome["left"]):
        click.echo(problem, err=True)
    if folder is None and report.holds:
        shutil.rmtree(home)
    else:
        click.echo(f"the run, its logs and outcome.json are kept in {home}", err=True)
    return finish(report, as_json=as_json)


def parse_kinds(faults: str) -> tuple[str, ...]:
    """ "kill,cut" as a tuple; InvalidInput names what is no kind."""
    kinds = tuple(dict.fromkeys(filter(None, (kind.strip() for kind in faults.split(",")))))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise InvalidInput(f"--faults {faults}: choose among {', '.join(KINDS)}", field="faults")
    return kinds


def torment(settings: ChaosSettings) -> dict[str, Any]:
    """The outcome of a run in a world of its own.

    Raises:
        FailedPrecondition: this machine permits no such world.
        InternalError: the system did not start or did not end; what is known stands on standard error.
    """
    path = Path(settings.folder, "settings.json")
    path.write_text(json.dumps(asdict(settings)))
    world = enter([sys.executable, "-m", "preceptor.cli.bench.chaos_run", str(path)])
    done = subprocess.run([*leash(), *world], check=False)
    if done.returncode != 0:
        raise InternalError(f"the chaos run broke off (seed {settings.seed}); its logs are in {settings.folder}")
    outcome: dict[str, Any] = json.loads(Path(settings.folder, "outcome.json").read_text())
    return outcome


def figures_of(outcome: dict[str, Any]) -> list[Figure]:
    """Counts that must be zero, and how soon the speed was back."""
    rounds = outcome["rounds"]
    recoveries = [taken["recovery_s"] for taken in rounds if taken["recovery_s"] is not None]
    kinds = Counter(fault["kind"] for taken in rounds for fault in taken["faults"])
    return [
        at_most("run.exit_code", outcome["exit_code"], "", 0),
        at_most("accounting.gaps", len(outcome["gaps"]), "", 0),
        at_most("groups.trained_twice", len(outcome["twice"]), "", 0),
        at_most("versions.with_two_contents", len(outcome["two_contents"]), "", 0),
        at_most("processes.left", len(outcome["left"]), "", 0),
        at_most("recovery.never", len(rounds) - len(recoveries), "rounds", 0),
        at_most("recovery.max", max(recoveries, default=float("nan")), "s", _RECOVERY_S_AT_MOST),
        Figure("recovery.p50", _median(recoveries), "s"),
        *(Figure(f"start.{stage}.max", _longest_start(rounds, stage), "s") for stage in ("generation", JOB)),
        Figure("speed.before.p50", _median([taken["before"] for taken in rounds]), "rollouts/s"),
        Figure("speed.before.first", rounds[0]["before"] if rounds else float("nan"), "rollouts/s"),
        Figure("speed.before.last", rounds[-1]["before"] if rounds else float("nan"), "rollouts/s"),
        Figure("rollouts.trained", outcome["trained_rollouts"], ""),
        Figure("learner.restarts", outcome["restarts"], ""),
        *(Figure(f"faults.{kind}", count, "") for kind, count in sorted(kinds.items())),
    ]


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else float("nan")


def _longest_start(rounds: list[dict[str, Any]], stage: str) -> float:
    """Of the rounds in which nothing but a process of this stage was killed."""

    def killed(taken: dict[str, Any]) -> set[str]:
        return {fault["victim"] for fault in taken["faults"] if fault["kind"] == "kill"}

    alone = [taken for taken in rounds if killed(taken) and all(name.startswith(stage) for name in killed(taken))]
    return max((taken["start_s"] for taken in alone), default=float("nan"))
