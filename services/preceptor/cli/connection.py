"""How commands find a running system's addresses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from preceptor.cli.stack.layout import Layout, StackOptions, load_layout

F = TypeVar("F", bound=Callable[..., Any])


def address_option(function: F) -> F:
    """`--address HOST:PORT`: the service to call; by default the one of the system in `--home`."""
    return click.option("--address", default=None, metavar="HOST:PORT", help="The service to call, if not --home's.")(
        function
    )


def address_of(service: str, home: Path, address: str | None) -> str:
    """The given address, or that of `service` in the system of `home` (its defaults if it was never up)."""
    layout = load_layout(home) or Layout(home, StackOptions())
    return address or layout.addresses[service]
