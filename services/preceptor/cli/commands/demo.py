"""`preceptor demo`: the whole loop on a toy world, and the controls that show what moves the policy."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from preceptor.cli.output import json_option, print_json
from preceptor.cli.stack.cores import available_cores
from preceptor.cli.stack.layout import Layout, StackOptions, load_layout, parse_scale
from preceptor.cli.stack.stack import Stack
from preceptor.common.errors import FailedPrecondition
from preceptor.common.supervisord import Program

Labels = Literal["true", "flipped", "shuffled"]
LIGHT_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """One demo: sizes, seed, what the raters do, whether the policy is tuned."""

    profile: str = "demo"
    seed: int = 0
    labels: Labels = "true"
    rl: bool = True
    sft_model: Path | None = None


@click.command()
@click.option("--out", default="runs/demo", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--profile", type=click.Choice(["demo", "ci"]), default="demo", show_default=True, help="How large.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--labels",
    type=click.Choice(["true", "flipped", "shuffled"]),
    default="true",
    show_default=True,
    help="Controls: raters who say the opposite, or anything.",
)
@click.option("--rl/--no-rl", default=True, show_default=True, help="Control: labels and reward models alone.")
@click.option(
    "--sft-model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Start from what an earlier demo's sft run made: OUT/artifacts/runs/demo-sft/model.",
)
@click.option("--scale", multiple=True, metavar="STAGE=COUNT", help="Processes per stage; by default by cores.")
@click.option("--port-base", type=click.IntRange(0, 50000), default=0, help="Added to every port but the console's.")
@click.option("--console-port", type=click.IntRange(1, 65535), default=8080, show_default=True)
@click.option("--keep-up", is_flag=True, help="Leave the system running afterwards, to look at and to label by hand.")
@click.option("--verify", is_flag=True, help="Three seeds, flipped labels, shuffled labels, and without RL.")
@json_option
def demo(
    out: Path,
    profile: str,
    seed: int,
    labels: Labels,
    rl: bool,
    sft_model: Path | None,
    scale: tuple[str, ...],
    port_base: int,
    console_port: int,
    keep_up: bool,
    verify: bool,
    as_json: bool,
) -> int:
    """Run the loop from an untrained model to a tuned policy; write OUT/report.html and OUT/report.json."""
    generators = {"generation": 2 if len(available_cores()) >= 4 else 1, "rollout": 1}
    options = StackOptions(
        policy="demo-rl",
        scale=generators | parse_scale(scale),
        port_base=port_base,
        console_port=console_port,
    )
    if verify:
        from preceptor.cli.demo_verify import verify_demo

        return verify_demo(out.resolve().with_name(out.name + "-verify"), options, profile, as_json=as_json)
    home = out.resolve()
    report = run_one(home, options, DemoOptions(profile, seed, labels, rl, sft_model), keep_up=keep_up)
    if as_json:
        print_json(report)
    else:
        click.echo(f"\nreport: {home / 'report.html'}")
        click.echo(f"Rank completions yourself: preceptor up --home {out}")
    return 0


def run_one(home: Path, options: StackOptions, what: DemoOptions, *, keep_up: bool = False) -> dict[str, Any]:
    """Runs one demo in a fresh home and returns its report."""
    from preceptor.demo.display import DemoDisplay
    from preceptor.demo.run import Endpoints, run_demo

    _clear(home)
    layout = Layout(home, options)
    stack = Stack(layout)
    raters = raters_program(layout, what)
    stack.up(extra=[raters])
    try:
        stack.wait_ready([name for name in stack.metrics_ports() if _is_light(name)] + ["redis"], LIGHT_TIMEOUT_S)
        urls = {name: f"http://{options.host}:{port}/metrics" for name, port in stack.metrics_ports().items()}
        endpoints = Endpoints(
            addresses=layout.addresses,
            artifacts_url=layout.artifacts_url,
            redis_url=layout.redis_url,
            metrics_urls=urls | {"raters": f"http://{options.host}:{layout.port(7270)}/metrics"},
            supervisor_pid=stack.supervisor.pid(),
        )
        with DemoDisplay() as progress:
            return run_demo(
                endpoints,
                profile=what.profile,
                seed=what.seed,
                labels=what.labels,
                rl=what.rl,
                sft_model=what.sft_model,
                out_dir=home,
                progress=progress,
            )
    finally:
        if not keep_up:
            stack.down()


def raters_program(layout: Layout, what: DemoOptions) -> Program:
    """The simulated raters, a process like any other."""
    from preceptor.demo.profiles import PROFILES

    env = {
        "HOST": layout.options.host,
        "METRICS_PORT": str(layout.port(7270)),
        "REDIS_URL": layout.redis_url,
        "ARTIFACTS_URL": layout.artifacts_url,
        "FEEDBACK_ADDRESS": layout.address(7120),
        "LABELS": what.labels,
        "SEED": str(what.seed),
        "WANTED_RANKINGS": str(PROFILES[what.profile].wanted_rankings),
        "JOURNAL": str(layout.data_dir / "raters.jsonl"),
        "LOG_FORMAT": "text",
    }
    settings = {f"PRECEPTOR_RATERS_{key}": value for key, value in env.items()}
    return Program("raters", (sys.executable, "-m", "preceptor.demo.raters"), settings)


def _is_light(name: str) -> bool:
    return not name.startswith("generation-") and name != "learner"


def _clear(home: Path) -> None:
    """Removes an earlier demo's files. FailedPrecondition when its system still runs or the folder is another's."""
    if not home.exists() or not any(home.iterdir()):
        return
    layout = load_layout(home)
    if layout is None:
        raise FailedPrecondition(f"{home} holds something else than a demo: give another --out, or empty it")
    if Stack(layout).supervisor.is_running():
        raise FailedPrecondition(f"a system is running in {home}: stop it with `preceptor down --home {home}`")
    shutil.rmtree(home)
