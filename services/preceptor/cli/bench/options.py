"""Options that benches share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def threads_option(function: F) -> F:
    """`--threads N`: of the model's arithmetic, on both sides; by default one per core of this process."""
    return click.option(
        "--threads", type=click.IntRange(1), default=None, help="Of the model's arithmetic; default: one per core."
    )(function)
