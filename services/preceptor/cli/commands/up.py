"""`preceptor up`, `down`, `status`: the embedded system."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from preceptor.cli.commands.train_control import run_status, told
from preceptor.cli.output import home_option, json_option, print_json, print_table
from preceptor.cli.stack.layout import Layout, StackOptions, load_layout, parse_scale
from preceptor.cli.stack.stack import Stack, stack_at


@click.command()
@home_option()
@click.option("--scale", multiple=True, metavar="STAGE=COUNT", help="Processes per stage: generation=2, rollout=2.")
@click.option("--policy", default=None, help="The run whose policy is served and followed, or a model folder.")
@click.option("--reward-models", default=None, metavar="NAME=URI[@VERSION],…", help="What is loaded at start.")
@click.option("--console-port", type=click.IntRange(1, 65535), default=None, help="The console's port.")
@click.option("--port-base", type=click.IntRange(0, 50000), default=None, help="Added to every other port.")
@click.option("--timeout", "timeout_s", default=180.0, show_default=True, help="Seconds to wait until it is ready.")
@json_option
def up(home: Path, timeout_s: float, as_json: bool, scale: tuple[str, ...], **wanted: Any) -> None:
    """Start the system and leave it running.

    A home that was up before comes back as it was; options given now replace the stored ones.
    """
    stored = load_layout(home)
    options = stored.options if stored else StackOptions()
    options = replace(
        options,
        with_feedback=True,
        with_console=True,
        scale=options.scale | parse_scale(scale),
        **{key: value for key, value in wanted.items() if value is not None},
    )
    stack = Stack(Layout(home, options))
    click.echo(f"starting in {home} …", err=True)
    stack.up()
    generators = [name for name in stack.metrics_ports() if name.startswith("generation-")]
    light = [name for name in ["redis", *stack.metrics_ports()] if name not in {*generators, "learner"}]
    stack.wait_ready(light, timeout_s)
    if options.policy:
        stack.wait_ready(generators, timeout_s)
    if as_json:
        print_json({"home": str(home), "addresses": stack.layout.addresses})
        return
    addresses = stack.layout.addresses
    print_table(["service", "address"], [[name, address] for name, address in addresses.items() if name != "learner"])
    click.echo(f"\nRank completions at {addresses['console']}   ·   preceptor status   ·   preceptor down")
    if not options.policy:
        click.echo("The generators wait for a policy: start a loop (`preceptor loop start`) or use --policy.")


@click.command()
@home_option()
def down(home: Path) -> None:
    """Stop the system and wait until every process has ended."""
    stopped = stack_at(home, load_layout(home)).down()
    click.echo("stopped" if stopped else f"nothing was running in {home}")


@click.command()
@home_option()
@json_option
def status(home: Path, as_json: bool) -> None:
    """Show each process: state, readiness, what to look at. Exit code 1 when one is not well."""
    stack = stack_at(home, load_layout(home))
    if not stack.supervisor.is_running():
        if as_json:
            print_json({"running": False, "processes": []})
        else:
            click.echo(f"not running: start it with `preceptor up --home {home}`")
        click.get_current_context().exit(1)
    rows = stack.status()
    run = run_status(stack.layout.addresses["learner"])
    if as_json:
        shown_run = None if run is None else {"run_id": run.run_id, "step": run.step, "warnings": list(run.warnings)}
        processes = [asdict(row) for row in rows]
        print_json(
            {"running": True, "processes": processes, "addresses": stack.layout.addresses, "learner_run": shown_run}
        )
    else:
        shown = [
            [row.name, row.state, {True: "yes", False: "no", None: "-"}[row.ready], row.pid, row.detail] for row in rows
        ]
        print_table(["process", "state", "ready", "pid", "detail"], shown)
        if run is not None:
            click.echo(f"\n{told(run)}")
        click.echo(f"\nlogs: {stack.layout.logs_dir}")
    if any(row.ready is False and row.state != "exited" for row in rows):
        click.get_current_context().exit(1)
