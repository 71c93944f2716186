"""`preceptor train`: training runs on the user's own data."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from preceptor.cli.commands.train_control import CONTROLS
from preceptor.cli.output import home_option, json_option, print_json, print_table
from preceptor.cli.rl_run import run_rl
from preceptor.cli.stack.layout import Layout, StackOptions, parse_scale
from preceptor.cli.stack.programs import ProgramFactory
from preceptor.common.errors import InvalidInput

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def train() -> None:
    """Run training jobs, and talk to those that run.

    An interrupted run goes on from its last checkpoint when it is started again.
    """


def _job_options(function: F) -> F:
    for option in (
        click.argument("config", type=click.Path(dir_okay=False, path_type=Path)),
        home_option(),
        click.option("--dry-run", is_flag=True, help="Check the config and its files; print what would be done."),
        click.option("--port-base", type=click.IntRange(0, 50000), default=0, help="Added to every port."),
        click.option("--nproc", type=click.IntRange(1, 1024), default=1, help="Learner ranks on this machine (FSDP)."),
        json_option,
    ):
        function = option(function)
    return function


@train.command()
@_job_options
def sft(config: Path, home: Path, dry_run: bool, port_base: int, nproc: int, as_json: bool) -> int:
    """Supervised fine-tuning."""
    return run_kind("sft", config, Layout(home, _options((), port_base)), nproc=nproc, dry_run=dry_run, as_json=as_json)


@train.command()
@_job_options
def reward(config: Path, home: Path, dry_run: bool, port_base: int, nproc: int, as_json: bool) -> int:
    """A reward model, from rankings or preferences."""
    return run_kind(
        "reward", config, Layout(home, _options((), port_base)), nproc=nproc, dry_run=dry_run, as_json=as_json
    )


@train.command()
@_job_options
def dpo(config: Path, home: Path, dry_run: bool, port_base: int, nproc: int, as_json: bool) -> int:
    """Direct preference optimisation, on what a reward model would learn from."""
    return run_kind("dpo", config, Layout(home, _options((), port_base)), nproc=nproc, dry_run=dry_run, as_json=as_json)


@train.command()
@_job_options
@click.option("--scale", multiple=True, metavar="STAGE=COUNT", help="Processes per stage, e.g. generation=2.")
def rl(
    config: Path, home: Path, dry_run: bool, scale: tuple[str, ...], port_base: int, nproc: int, as_json: bool
) -> int:
    """Reinforcement learning, with the generators and the reward service that it needs."""
    return run_kind(
        "rl", config, Layout(home, _options(scale, port_base)), nproc=nproc, dry_run=dry_run, as_json=as_json
    )


for control in CONTROLS:
    train.add_command(control)


def _options(scale: tuple[str, ...], port_base: int) -> StackOptions:
    return StackOptions(scale=StackOptions().scale | parse_scale(scale), port_base=port_base, with_console=False)


def run_kind(kind: str, config: Path, layout: Layout, *, nproc: int, dry_run: bool, as_json: bool) -> int:
    """Runs a job of this kind to its end, or shows what it would do; returns the exit code."""
    check_kind(config, kind)
    if dry_run:
        show_plan(plan_of(config), as_json)
        return 0
    layout.artifacts_dir.mkdir(parents=True, exist_ok=True)
    live = kind == "rl" and read_mapping(config).get("replay") is None
    code = run_rl(config, layout, nproc) if live else run_in_foreground(config, layout, nproc)
    if code == 0 and as_json:
        print_json({"run_id": run_id_of(config), "artifacts": layout.artifacts_url})
    return code


def check_kind(config: Path, kind: str) -> None:
    """InvalidInput unless the file exists, is a YAML mapping and says `kind: <kind>`."""
    raw = read_mapping(config)
    if raw.get("kind") != kind:
        raise InvalidInput(f"{config}: kind is {raw.get('kind')!r}, but `preceptor train {kind}` needs kind: {kind}")


def read_mapping(config: Path) -> dict[str, Any]:
    """The YAML mapping in a file; InvalidInput naming the file otherwise."""
    if not config.is_file():
        raise InvalidInput(f"{config}: no such file", field="config")
    try:
        raw = yaml.safe_load(config.read_text())
    except yaml.YAMLError as error:
        raise InvalidInput(f"{config}: not YAML: {error}", field="config") from error
    if not isinstance(raw, dict):
        raise InvalidInput(f"{config}: expected a mapping of settings at the top", field="config")
    return raw


def run_id_of(config: Path) -> str:
    """The run's id as the file has it, for messages; the full check is the learner's."""
    return str(read_mapping(config).get("run_id", ""))


def plan_of(config: Path) -> dict[str, Any]:
    """What the run would load and do, after checking the config and every file it names."""
    from preceptor.learner import dry_run
    from preceptor.learner.run_file import load_run

    return dry_run(load_run(config))


def show_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(plan)
    else:
        print_table(["", ""], [[key, value] for key, value in plan.items()])


def run_in_foreground(config: Path, layout: Layout, nproc: int = 1) -> int:
    """Runs a job that needs no other service in this terminal; returns its exit code."""
    env = {**os.environ, **ProgramFactory(layout).learner_env(all_cores=True)}
    argv = [sys.executable, "-m", "preceptor.learner", str(config), "--nproc", str(nproc)]
    return subprocess.run(argv, env=env, check=False).returncode
