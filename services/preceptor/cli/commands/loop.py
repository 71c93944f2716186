"""`preceptor loop`: the conductor's pipelines."""

from __future__ import annotations

from pathlib import Path

import click
from google.protobuf import json_format

from preceptor.api.conductor.v1 import loop_service_pb2 as pb
from preceptor.cli.connection import address_of, address_option
from preceptor.cli.output import home_option, json_option, print_json, print_rows, print_table
from preceptor.clients.conductor import LoopClient
from preceptor.common.errors import InvalidInput

_DAY_S = 24 * 3600.0


@click.group()
def loop() -> None:
    """Loops: sft, labels, reward model, PPO, labels, …"""


@loop.command()
@click.argument("loop_id")
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@address_option
@home_option()
def start(loop_id: str, config: Path, address: str | None, home: Path) -> None:
    """Start the loop that the YAML file CONFIG describes."""
    if not config.is_file():
        raise InvalidInput(f"{config}: no such file", field="config")
    request = pb.StartLoopRequest(loop_id=loop_id, config_yaml=config.read_text())
    with LoopClient(address_of("conductor", home, address)) as client:
        client.start_loop(request)
    click.echo(f"started; follow it with `preceptor loop watch {loop_id}` or in the console")


@loop.command("list")
@address_option
@home_option()
@json_option
def list_loops(address: str | None, home: Path, as_json: bool) -> None:
    """All loops and their states."""
    with LoopClient(address_of("conductor", home, address)) as client:
        loops = client.list_loops(pb.ListLoopsRequest(page_size=1000)).loops
    rows = [
        {"loop": item.loop_id, "state": state_name(item), "iteration": item.iteration, "of": item.iterations}
        for item in loops
    ]
    print_rows(rows, as_json, "no loop was started yet: `preceptor loop start NAME CONFIG.yaml`")


@loop.command()
@click.argument("loop_id")
@address_option
@home_option()
@json_option
def show(loop_id: str, address: str | None, home: Path, as_json: bool) -> None:
    """One loop, stage by stage."""
    with LoopClient(address_of("conductor", home, address)) as client:
        item = client.get_loop(pb.GetLoopRequest(loop_id=loop_id)).loop
    if as_json:
        print_json(json_format.MessageToDict(item, preserving_proto_field_name=True))
        return
    print_table(
        ["stage", "state", "progress", "run", "message"],
        [[s.name, s.state, f"{s.progress:.0%}", s.run_id, s.message] for s in item.stages],
        title=f"{item.loop_id}: {state_name(item)}, iteration {item.iteration} of {item.iterations}",
    )
    if item.error:
        click.echo(item.error, err=True)


@loop.command()
@click.argument("loop_id")
@address_option
@home_option()
@json_option
def watch(loop_id: str, address: str | None, home: Path, as_json: bool) -> None:
    """Print the loop's events as they happen, until it ends."""
    with LoopClient(address_of("conductor", home, address)) as client:
        for answer in client.watch_loop(pb.WatchLoopRequest(loop_id=loop_id), timeout_s=_DAY_S):
            event = answer.event
            if as_json:
                print_json(json_format.MessageToDict(event, preserving_proto_field_name=True))
                continue
            values = "  ".join(f"{key} {value:.4g}" for key, value in sorted(event.values.items()))
            when = event.time.ToDatetime().strftime("%H:%M:%S")
            click.echo(f"{when}  {event.stage:<12} {event.message}  {values}".rstrip())


@loop.command()
@click.argument("loop_id")
@click.option("--reason", default="", help="Kept with the loop.")
@address_option
@home_option()
def stop(loop_id: str, reason: str, address: str | None, home: Path) -> None:
    """Stop a loop and its runs at the next safe point."""
    with LoopClient(address_of("conductor", home, address)) as client:
        client.stop_loop(pb.StopLoopRequest(loop_id=loop_id, reason=reason))
    click.echo(f"{loop_id} is stopping")


def state_name(item: pb.Loop) -> str:
    """ "running" for LOOP_STATE_RUNNING."""
    return pb.LoopState.Name(item.state).removeprefix("LOOP_STATE_").lower()
