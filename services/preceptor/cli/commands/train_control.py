"""`preceptor train set|status|watch|pause|resume|checkpoint|stop RUN`: talking to a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from google.protobuf import json_format

from preceptor.api.learner.v1 import learner_service_pb2 as pb
from preceptor.cli.connection import address_option
from preceptor.cli.output import home_option, json_option, print_json, print_table
from preceptor.cli.stack.layout import Layout, StackOptions, load_layout
from preceptor.clients.learner import LearnerClient
from preceptor.common.discovery import KIND_LEARNER, Registry
from preceptor.common.errors import InvalidInput, NotFound, PreceptorError, Unavailable

_PROBE_S = 3.0


@click.command("set")
@click.argument("run")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@address_option
@home_option()
@json_option
def set_settings(run: str, settings: tuple[str, ...], address: str | None, home: Path, as_json: bool) -> None:
    """Change settings of a run while it goes on; without any, show what can be changed.

    Keys are dotted as in the config: ppo.optimizer.learning_rate=1e-6. A change is durable when the command returns.
    """
    values = dict(_pair(text) for text in settings)
    with learner_of(run, home, address) as client:
        answer = client.change_settings(pb.ChangeSettingsRequest(values=values))
    if as_json:
        print_json({"step": answer.step, "values": dict(answer.values)})
        return
    if values:
        click.echo(f"from step {answer.step + 1} on")
    print_table(["setting", "value"], sorted(answer.values.items()))


@click.command("status")
@click.argument("run")
@address_option
@home_option()
@json_option
def show_status(run: str, address: str | None, home: Path, as_json: bool) -> None:
    """Where a run stands, what its guards found, and its last metrics."""
    with learner_of(run, home, address) as client:
        status = client.status(pb.GetStatusRequest())
    if as_json:
        print_json(json_format.MessageToDict(status, always_print_fields_with_no_presence=True))
        return
    click.echo(told(status))
    print_table(["metric", "value"], [[name, f"{value:.6g}"] for name, value in sorted(status.metrics.items())])


@click.command("watch")
@click.argument("run")
@click.option("--after-step", type=click.IntRange(0), default=0, help="Begin behind this step.")
@click.option("--metric", "names", multiple=True, help="A metric to show; several times for more. Default: all.")
@address_option
@home_option()
def watch(run: str, after_step: int, names: tuple[str, ...], address: str | None, home: Path) -> None:
    """Print each step's metrics as they come, a JSON object a line, until the run ends."""
    with learner_of(run, home, address) as client:
        for item in client.watch_metrics(pb.WatchMetricsRequest(after_step=after_step)):
            shown = {name: value for name, value in item.metrics.items() if not names or name in names}
            print_line({"step": item.step, "policy_version": item.policy_version, "metrics": shown})


@click.command("pause")
@click.argument("run")
@address_option
@home_option()
def pause(run: str, address: str | None, home: Path) -> None:
    """Pause a run after its current step."""
    with learner_of(run, home, address) as client:
        click.echo(f"paused after step {client.pause(pb.PauseRequest()).step} or the one in work")


@click.command("resume")
@click.argument("run")
@address_option
@home_option()
def resume(run: str, address: str | None, home: Path) -> None:
    """Let a paused run go on."""
    with learner_of(run, home, address) as client:
        click.echo(f"going on from step {client.resume(pb.ResumeRequest()).step}")


@click.command("checkpoint")
@click.argument("run")
@address_option
@home_option()
@json_option
def checkpoint(run: str, address: str | None, home: Path, as_json: bool) -> None:
    """Write a checkpoint after the current step; returns when it is durable."""
    with learner_of(run, home, address) as client:
        answer = client.checkpoint(pb.CheckpointRequest())
    if as_json:
        print_json({"step": answer.step, "uri": answer.uri})
    else:
        click.echo(f"step {answer.step}: {answer.uri}")


@click.command("stop")
@click.argument("run")
@click.option("--reason", default="", help="Kept in the run's summary.")
@address_option
@home_option()
def stop(run: str, reason: str, address: str | None, home: Path) -> None:
    """End a run after its current step, with checkpoint and export."""
    with learner_of(run, home, address) as client:
        click.echo(f"ending after step {client.stop(pb.StopRequest(reason=reason)).step} or the one in work")


CONTROLS = (set_settings, show_status, watch, pause, resume, checkpoint, stop)


@contextmanager
def learner_of(run: str, home: Path, address: str | None) -> Iterator[LearnerClient]:
    """A client of the run's learner: at the address given, as discovery has it, or at the home's learner port.

    Raises:
        NotFound: no learner of this run answers; names those that do.
    """
    with LearnerClient(address or _address_of(run, home)) as client:
        yield client


def told(status: pb.GetStatusResponse) -> str:
    """A run's state in sentences, one a line; its guards' findings below."""
    state = pb.RunState.Name(status.state).removeprefix("RUN_STATE_").lower()
    first = f"{status.run_id} ({status.kind}): {state}, step {status.step} of {status.total_steps}"
    return "\n".join([first + (f"; {status.message}" if status.message else ""), *(f"  {w}" for w in status.warnings)])


def print_line(row: dict[str, object]) -> None:
    click.echo(json.dumps(row))


def _address_of(run: str, home: Path) -> str:
    layout = load_layout(home) or Layout(home, StackOptions())
    known = _announced(layout)
    if run in known:
        return known[run]
    default = layout.addresses["learner"]
    status = run_status(default)
    found = status.run_id if status else ""
    if found == run:
        return default
    others = sorted({*known, *([found] if found else [])})
    running = f"running: {', '.join(others)}" if others else "no run answers there"
    raise NotFound(f"no learner of run {run} in {home}; {running} (--address names one elsewhere)", field="run")


def _announced(layout: Layout) -> dict[str, str]:
    registry = Registry(layout.redis_url)
    try:
        return {record["run_id"]: record["address"] for record in registry.list(KIND_LEARNER)}
    except Unavailable:
        return {}
    finally:
        registry.close()


def run_status(address: str) -> pb.GetStatusResponse | None:
    """The status of the run at an address; None where none answers."""
    with LearnerClient(address) as client:
        try:
            return client.status(pb.GetStatusRequest(), timeout_s=_PROBE_S)
        except PreceptorError:
            return None


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise InvalidInput(f"{text}: expected KEY=VALUE, for example ppo.kl.coef=0.1", field="settings")
    return key.strip(), value.strip()
