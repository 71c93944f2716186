"""What every command shares: the options `--home` and `--json`, and printing in both forms."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

DEFAULT_HOME = "runs/local"
F = TypeVar("F", bound=Callable[..., Any])


def home_option(default: str = DEFAULT_HOME) -> Callable[[F], F]:
    """`--home DIR`: where the system keeps its state."""
    return click.option(
        "--home",
        envvar="PRECEPTOR_HOME",
        default=default,
        show_default=True,
        type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
        help="The folder that holds the system's state (databases, artifacts, logs).",
    )


def json_option(function: F) -> F:
    """`--json`: machine-readable output on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")(function)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, sort_keys=False, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """A table for people on stdout."""
    table = Table(*columns, title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console().print(table)


def print_rows(rows: Sequence[Mapping[str, Any]], as_json: bool, empty: str) -> None:
    """Rows as JSON or as a table; `empty` is the sentence for none."""
    if as_json:
        print_json(list(rows))
    elif not rows:
        click.echo(empty)
    else:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
