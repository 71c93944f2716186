"""`preceptor bench feedback`: durable votes per second, and what 100,000 rankings in the database cost."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from preceptor.cli.bench.feedback_load import Taken, create_project, rate
from preceptor.cli.bench.feedback_preload import durability, preload, prepare
from preceptor.cli.bench.postgres import databases
from preceptor.cli.bench.processes import ServiceProcess
from preceptor.cli.bench.redis_server import redis_server
from preceptor.cli.bench.report import Figure, Report, at_most, environment, finish, progress, step
from preceptor.cli.bench.rounds import alternate, percentile, ratios, spread
from preceptor.cli.output import json_option

_READY_TIMEOUT_S = 120.0
_FSYNCS = 200
_SLOWER_AT_MOST = 1.2
LABEL_STUDIO = "not measured by this bench: no figure here compares with it"


@dataclass(frozen=True, slots=True)
class FeedbackLoad:
    """How much of what."""

    raters: int
    submissions: int  # per round
    rounds: int
    rankings: int


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
@json_option
def feedback(
    raters: int,
    submissions: int,
    rounds: int,
    rankings: int,
    database: str,
    postgres_url: str | None,
    parent: Path | None,
    as_json: bool,
) -> int:
    """Lease and submit through gRPC against an empty database and a filled one, turn by turn."""
    machine = environment()
    load = FeedbackLoad(raters, submissions, rounds, rankings)
    figures: list[Figure] = []
    settings: dict[str, Any] = {"raters": raters, "rankings": rankings, "label_studio": LABEL_STUDIO}
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
        redis_url = stack.enter_context(redis_server(folder))
        figures.append(Figure("disk.fsyncs", fsyncs_per_s(folder), "1/s"))
        with progress("starting", len(urls) * (rounds + 3)) as bar:
            for name, (empty, filled) in urls.items():
                figures += measure(name, (empty, filled), load, folder, redis_url, bar)
                settings[f"{name}_durability"] = durability(empty)
    return finish(Report("feedback", figures, settings, machine), as_json=as_json)


def measure(
    name: str, urls: tuple[str, str], load: FeedbackLoad, folder: Path, redis_url: str, bar: Progress
) -> list[Figure]:
    """The figures of one kind of database, from two servers on two databases of that kind, empty and to be filled."""
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
        sides = {
            side: partial(rate, address, load.raters, load.submissions)
            for side, address in zip(("empty", "filled"), addresses, strict=True)
        }
        taken = alternate(sides, load.rounds, on_round=lambda: step(bar, f"{name}: rating"))
    return figures_of(name, taken["empty"], taken["filled"])


def figures_of(name: str, empty: Sequence[Taken], filled: Sequence[Taken]) -> list[Figure]:
    """Rates and latencies on the empty database, and how they change on the filled one."""
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
