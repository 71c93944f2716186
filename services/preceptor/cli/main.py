"""The `preceptor` command. Subcommands are imported when they are called, so that `--help` answers at once."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from typing import Any

import click

from preceptor.clients.credentials import use_api_key
from preceptor.common.errors import InvalidInput, PreceptorError, Unavailable

COMMANDS = {
    "up": "preceptor.cli.commands.up:up",
    "down": "preceptor.cli.commands.up:down",
    "status": "preceptor.cli.commands.up:status",
    "scale": "preceptor.cli.commands.scale:scale",
    "demo": "preceptor.cli.commands.demo:demo",
    "train": "preceptor.cli.commands.train:train",
    "loop": "preceptor.cli.commands.loop:loop",
    "feedback": "preceptor.cli.commands.feedback:feedback",
    "generate": "preceptor.cli.commands.inference:generate",
    "score": "preceptor.cli.commands.inference:score",
    "users": "preceptor.cli.commands.users:users",
    "backup": "preceptor.cli.commands.backup:backup",
    "restore": "preceptor.cli.commands.backup:restore",
    "models": "preceptor.cli.commands.models:models",
    "bench": "preceptor.cli.commands.bench:bench",
}


class LazyGroup(click.Group):
    """A group whose commands are modules, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="preceptor")
def cli() -> None:
    """Reinforcement learning from human feedback, as services."""


def main(argv: list[str] | None = None) -> None:
    """Runs the command. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted."""
    sys.exit(run(argv))


def run(argv: list[str] | None = None) -> int:
    """As `main`, returning the exit code."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # one bar, ours
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: what was started is taken down
    use_api_key(os.environ.get("PRECEPTOR_API_KEY", ""))
    try:
        result: Any = cli.main(args=argv, prog_name="preceptor", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except PreceptorError as error:
        click.echo(f"preceptor: {error}", err=True)
        if isinstance(error, Unavailable):
            click.echo("is the system up? `preceptor status` shows it, `preceptor up` starts it", err=True)
        return 2 if isinstance(error, InvalidInput) else 1
    return result if isinstance(result, int) else 0
