"""`preceptor models`: what the reward service serves, and the registry of reward models."""

from __future__ import annotations

from pathlib import Path

import click

from preceptor.api.conductor.v1 import loop_service_pb2 as loop_pb
from preceptor.api.reward.v1 import reward_service_pb2 as reward_pb
from preceptor.cli.connection import address_of, address_option
from preceptor.cli.output import home_option, json_option, print_rows
from preceptor.clients.conductor import LoopClient
from preceptor.clients.reward import RewardClient
from preceptor.common.errors import FailedPrecondition
from preceptor.reward.config import kind_of


@click.group()
def models() -> None:
    """Reward models: what serves, what was trained, which one is used."""


@models.command("list")
@address_option
@home_option()
@json_option
def list_models(address: str | None, home: Path, as_json: bool) -> None:
    """What the reward service has loaded."""
    with RewardClient(address_of("reward", home, address)) as client:
        loaded = client.list_models(reward_pb.ListModelsRequest(page_size=1000)).models
    rows = [
        {
            "name": model.name,
            "kind": reward_pb.RewardKind.Name(model.kind).removeprefix("REWARD_KIND_").lower(),
            "version": model.reward_model_version,
            "current": model.current,
            "scored": model.scored_total,
            "uri": model.uri,
        }
        for model in loaded
    ]
    print_rows(rows, as_json, "nothing is loaded: `preceptor models load NAME URI`")


@models.command()
@click.argument("name")
@click.argument("uri")
@click.option("--version", type=click.IntRange(0), default=0, help="Version of a reward model; 0 for a function.")
@click.option("--current/--beside", default=True, show_default=True, help="Whether it answers to the empty name.")
@address_option
@home_option()
def load(name: str, uri: str, version: int, current: bool, address: str | None, home: Path) -> None:
    """Load under NAME what URI says: a reward model's folder, a function (package.module:function,
    path/file.py:function, entrypoint:name), an http(s) address that scores, or a composite of loaded names:
    "composite:sum(0.7*a|0.3*b)", mean(a|b), min(a|b) or uwo=0.5(a|b).
    """
    kind = reward_pb.RewardKind.Value(f"REWARD_KIND_{kind_of(uri).name}")
    request = reward_pb.LoadModelRequest(
        name=name, kind=kind, uri=uri, reward_model_version=version, make_current=current
    )
    with RewardClient(address_of("reward", home, address)) as client:
        loaded = client.load_model(request).model
    click.echo(f"{loaded.name} is loaded{' and current' if loaded.current else ''}")


@models.command()
@address_option
@home_option()
@json_option
def registry(address: str | None, home: Path, as_json: bool) -> None:
    """The reward models that loops have trained: labels, accuracy, gate."""
    with LoopClient(address_of("conductor", home, address)) as client:
        known = client.list_reward_models(loop_pb.ListRewardModelsRequest(page_size=1000)).reward_models
    rows = [
        {
            "version": model.reward_model_version,
            "promoted": model.promoted,
            "rankings": model.rankings,
            "accuracy": round(model.heldout_accuracy, 4),
            "ceiling": round(model.noise_ceiling, 4),
            "gate": model.gate,
            "run": model.run_id,
        }
        for model in known
    ]
    print_rows(rows, as_json, "no loop has trained a reward model yet")


@models.command()
@click.argument("version", type=click.IntRange(1))
@click.option("--reason", default="", help="Kept with the promotion.")
@address_option
@home_option()
def promote(version: int, reason: str, address: str | None, home: Path) -> None:
    """Make a registered version the one that scores (also the way back to an older one)."""
    request = loop_pb.PromoteRewardModelRequest(reward_model_version=version, reason=reason)
    with LoopClient(address_of("conductor", home, address)) as client:
        client.promote_reward_model(request)
    click.echo(f"reward model {version} serves now")


@models.command()
@click.option("--reason", default="", help="Kept with the promotion.")
@address_option
@home_option()
def rollback(reason: str, address: str | None, home: Path) -> None:
    """Go back to the newest version before the one that scores now, of those that passed their gate."""
    with LoopClient(address_of("conductor", home, address)) as client:
        known = client.list_reward_models(loop_pb.ListRewardModelsRequest(page_size=1000)).reward_models
        now = next((model.reward_model_version for model in known if model.promoted), 0)
        before = [m.reward_model_version for m in known if m.gate == "passed" and m.reward_model_version < now]
        if not before:
            raise FailedPrecondition(
                f"there is no version before {now} that passed its gate: see `preceptor models registry`"
                if now
                else "no reward model of a loop serves yet: see `preceptor models registry`"
            )
        request = loop_pb.PromoteRewardModelRequest(reward_model_version=max(before), reason=reason or "rollback")
        client.promote_reward_model(request)
    click.echo(f"reward model {max(before)} serves again, in place of {now}")
