"""`preceptor backup` and `preceptor restore`: the databases, and the artifacts that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from preceptor.cli.backup.system_backup import System, back_up
from preceptor.cli.backup.system_backup import restore as restore_system
from preceptor.cli.output import home_option, json_option, print_json
from preceptor.cli.stack.layout import Layout, StackOptions, load_layout

F = TypeVar("F", bound=Callable[..., Any])
DIR = click.Path(file_okay=False, path_type=Path)


def _place_options(function: F) -> F:
    """Where the system is: a home, or the addresses of its parts."""
    for name, help_text in (
        ("--artifacts", "The artifact store, instead of --home's."),
        ("--conductor-database", "The conductor's database, instead of --home's."),
        ("--feedback-database", "The votes' database, instead of --home's."),
    ):
        variable = f"PRECEPTOR_BACKUP_{name.strip('-').replace('-', '_').upper()}"
        function = click.option(name, default=None, metavar="URL", envvar=variable, help=help_text)(function)
    return home_option()(function)


@click.command()
@click.argument("folder", metavar="DIR", type=DIR)
@_place_options
@json_option
def backup(folder: Path, home: Path, as_json: bool, **places: str | None) -> None:
    """Write both databases and the artifacts that they name to DIR. The system may go on working.

    Each database is written as it stands at one moment. Models and checkpoints are copied as far as the registry and
    the runs name them; Redis holds nothing that cannot be sent again.
    """
    with _shown("backing up") as on_file:
        manifest = back_up(system_of(home, **places), folder, on_file)
    tables = {
        name: sum(table["rows"] for table in said["tables"].values()) for name, said in manifest["databases"].items()
    }
    artifacts = manifest["artifacts"]
    size = sum(file["size"] for file in artifacts["files"].values())
    if as_json:
        copied = {"files": len(artifacts["files"]), "bytes": size}
        print_json({"dir": str(folder), "rows": tables, **copied, **_left(artifacts)})
        return
    click.echo(
        f"{folder}: {tables['feedback']} rows of votes, {tables['conductor']} of loops and models, "
        f"{len(artifacts['files'])} files of artifacts, {size / 1e6:.1f} MB"
    )
    for what, names in _left(artifacts).items():
        for name in names:
            click.echo(f"{what}: {name}", err=True)


def _left(artifacts: dict[str, Any]) -> dict[str, list[str]]:
    return {"vanished": artifacts["vanished"], "elsewhere": artifacts["elsewhere"]}


@click.command()
@click.argument("folder", metavar="DIR", type=DIR)
@_place_options
@json_option
def restore(folder: Path, home: Path, as_json: bool, **places: str | None) -> None:
    """Fill an empty system from the backup in DIR. Stop the system first; start it afterwards.

    The backup is checked as a whole before anything is written. A backup of SQLite can be restored into PostgreSQL and
    the other way round, and artifacts into another store.
    """
    with _shown("restoring") as on_file:
        rows = restore_system(folder, system_of(home, **places), on_file)
    if as_json:
        print_json({"dir": str(folder), "rows": rows})
        return
    click.echo(f"restored {rows['feedback']} rows of votes and {rows['conductor']} of loops and models")


def system_of(
    home: Path, feedback_database: str | None, conductor_database: str | None, artifacts: str | None
) -> System:
    """The parts of the system in `home`, where they are not given."""
    layout = load_layout(home) or Layout(home, StackOptions())
    return System(
        feedback_database or f"sqlite:///{layout.data_dir / 'feedback.sqlite'}",
        conductor_database or f"sqlite:///{layout.data_dir / 'conductor.sqlite'}",
        artifacts or layout.artifacts_url,
    )


@contextmanager
def _shown(what: str) -> Iterator[Callable[[str], None]]:
    """What is being copied, on standard error."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda name: bar.update(task, description=f"{what}: {name}")
