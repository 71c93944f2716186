"""`preceptor bench feedback`: durable votes per second, and what 100,000 rankings in the database cost."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from preceptor.cli.bench.feedback_load import (
    CANDIDATE_WORDS,
    CANDIDATES,
    PROMPT_WORDS,
    Taken,
    create_project,
    rate,
)
from preceptor.cli.bench.feedback_preload import durability, preload, prepare
from preceptor.cli.bench.label_studio import VERSION, LabelStudio, install
from preceptor.cli.bench.label_studio import label_studio as run_label_studio
from preceptor.cli.bench.models import random_text
from preceptor.cli.bench.postgres import databases
from preceptor.cli.bench.processes import ServiceProcess
from preceptor.cli.bench.redis_server import redis_server
from preceptor.cli.bench.report import Figure, Report, at_least, at_most, environment, finish, progress, step
from preceptor.cli.bench.rounds import alternate, percentile, ratios, spread
from preceptor.cli.output import json_option

_READY_TIMEOUT_S = 120.0
_FSYNCS = 200
_SLOWER_AT_MOST = 1.2
_OVER_LABEL_STUDIO_AT_LEAST = 10.0
NO_LABEL_STUDIO = "not measured: see --label-studio"


@dataclass(frozen=True, slots=True)
class FeedbackLoad:
    """How much of what."""

    raters: int
    submissions: int  # per round
    rounds: int
    rankings: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Rounds of one kind of database, taken turn by turn with the others of that kind and with Label Studio."""

    empty: Sequence[Taken]
    filled: Sequence[Taken]
    label_studio: Sequence[float] = ()


@click.command()
@click.option("--raters", type=click.IntRange(1, 256), default=8, show_default=True, help="At work at the same time.")
@click.option("--submissions", type=click.IntRange(8), default=400, show_default=True, help="Votes per round.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--rankings",
    type=click.IntRange(0),
    default=20_000,
    show_default=True,
    help="Stored before in the second database; the goal is stated for 100000.",
)
@click.option("--database", type=click.Choice(["all", "sqlite", "postgresql"]), default="all", show_default=True)
@click.option(
    "--postgres-url",
    default=None,
    metavar="URL",
    help="A server to make two databases on, instead of one started from the package pgserver.",
)
@click.option(
    "--dir",
    "parent",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Where the databases go: the disk that is measured. Default: the system's temporary folder.",
)
@click.option("--label-studio/--no-label-studio", default=False, help="Measure Label Studio beside SQLite.")
@click.option(
    "--label-studio-venv",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path.home() / ".cache" / "preceptor" / f"label-studio-{VERSION}",
    show_default=True,
    help="Where it is installed, unless it is there.",
)
@json_option
def feedback(
    raters: int,
    submissions: int,
    rounds: int,
    rankings: int,
    database: str,
    postgres_url: str | None,
    parent: Path | None,
    label_studio: bool,
    label_studio_venv: Path,
    as_json: bool,
) -> int:
    """Lease and submit through gRPC against an empty database and a filled one, turn by turn; and annotations through
    Label Studio's HTTP API, if asked."""
    machine = environment()
    load = FeedbackLoad(raters, submissions, rounds, rankings)
    figures: list[Figure] = []
    settings: dict[str, Any] = {"raters": raters, "rankings": rankings, "label_studio": NO_LABEL_STUDIO}
    with _scratch(parent) as folder, ExitStack() as stack:
        urls: dict[str, tuple[str, str]] = {}
        if database != "postgresql":
            urls["sqlite"] = (f"sqlite:///{folder}/empty.sqlite", f"sqlite:///{folder}/filled.sqlite")
        if database != "sqlite":
            found = stack.enter_context(databases(postgres_url, folder, required=database == "postgresql"))
            if found is not None:
                urls["postgresql"] = found
            else:
                settings["postgresql"] = "not measured: neither --postgres-url nor the package pgserver"
        peer = None
        if label_studio and "sqlite" in urls:
            peer = stack.enter_context(run_label_studio(install(label_studio_venv), folder))
            settings["label_studio"] = f"{VERSION}, label-studio start; {peer.durability}"
        redis_url = stack.enter_context(redis_server(folder))
        figures.append(Figure("disk.fsyncs", fsyncs_per_s(folder), "1/s"))
        with progress("starting", len(urls) * (rounds + 3)) as bar:
            for name, (empty, filled) in urls.items():
                beside = peer if name == "sqlite" else None
                figures += figures_of(name, measure(name, (empty, filled), load, folder, redis_url, bar, beside))
                settings[f"{name}_durability"] = durability(empty)
    return finish(Report("feedback", figures, settings, machine), as_json=as_json)


def measure(
    name: str,
    urls: tuple[str, str],
    load: FeedbackLoad,
    folder: Path,
    redis_url: str,
    bar: Progress,
    peer: LabelStudio | None = None,
) -> Measured:
    """Rounds of one kind of database, from two servers on two databases of that kind, empty and to be filled."""
    for url in urls:
        prepare(url)
    step(bar, f"{name}: storing {load.rankings} rankings")
    preload(urls[1], load.rankings, load.raters)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                ServiceProcess("feedback", folder, {"database_url": url, "redis_url": f"{redis_url}/{number}"})
            )
            for number, url in enumerate(urls)
        ]
        addresses = [server.wait_ready(_READY_TIMEOUT_S).address for server in servers]
        for address in addresses:
            create_project(address)
        step(bar, f"{name}: rating")
        sides: dict[str, Callable[[], Any]] = {
            side: partial(rate, address, load.raters, load.submissions)
            for side, address in zip(("empty", "filled"), addresses, strict=True)
        }
        if peer is not None:
            text = random_text(PROMPT_WORDS + CANDIDATES * CANDIDATE_WORDS, random.Random(0))
            sides["label_studio"] = partial(peer.rate, load.raters, load.submissions, text)
        taken = alternate(sides, load.rounds, on_round=lambda: step(bar, f"{name}: rating"))
    return Measured(taken["empty"], taken["filled"], taken.get("label_studio", ()))


def figures_of(name: str, measured: Measured) -> list[Figure]:
    """Rates and latencies on the empty database, how they change on the filled one, and how Label Studio compares."""
    empty, filled = measured.empty, measured.filled
    rate_spread = spread([taken.per_s for taken in empty])
    submits = [seconds for taken in empty for seconds in taken.submit_s]
    leases = [seconds for taken in empty for seconds in taken.lease_s]
    figures = [
        Figure(f"{name}.submissions", rate_spread.median, "1/s"),
        *rate_spread.figures(f"{name}.submissions", "1/s"),
        Figure(f"{name}.submit.p50", percentile(submits, 50) * 1e3, "ms"),
        Figure(f"{name}.submit.p99", percentile(submits, 99) * 1e3, "ms"),
        Figure(f"{name}.lease.p50", percentile(leases, 50) * 1e3, "ms"),
        Figure(f"{name}.lease.p99", percentile(leases, 99) * 1e3, "ms"),
    ]
    for what in ("lease", "submit"):
        slower = ratios(*([percentile(getattr(taken, f"{what}_s"), 50) for taken in side] for side in (filled, empty)))
        label = f"{name}.{what}.p50.filled_over_empty"
        figures += [at_most(label, slower.median, "ratio", _SLOWER_AT_MOST), *slower.figures(label, "ratio")]
    if measured.label_studio:
        faster = ratios([taken.per_s for taken in empty], measured.label_studio)
        label = f"{name}.submissions_over_label_studio"
        figures.append(Figure("label_studio.annotations", spread(measured.label_studio).median, "1/s"))
        figures.append(at_least(label, faster.median, "ratio", _OVER_LABEL_STUDIO_AT_LEAST))
        figures += faster.figures(label, "ratio")
    return figures


def fsyncs_per_s(folder: Path) -> float:
    """How often the disk makes 4 KiB durable: the limit of commits that one writer makes one by one."""
    path = folder / "fsync"
    with path.open("wb") as file:
        begun = time.perf_counter()
        for _ in range(_FSYNCS):
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
        taken = time.perf_counter() - begun
    path.unlink()
    return _FSYNCS / taken


@contextmanager
def _scratch(parent: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="preceptor-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
