"""`preceptor users`: who may do what, where the feedback service asks (PRECEPTOR_FEEDBACK_ACCESS=required)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from preceptor.api.conductor.v1 import loop_service_pb2 as loops_pb
from preceptor.api.feedback.v1 import access_service_pb2 as pb
from preceptor.cli.connection import address_of, address_option
from preceptor.cli.output import home_option, json_option, print_json, print_rows
from preceptor.clients.access import AccessClient
from preceptor.clients.conductor import LoopClient
from preceptor.common.errors import Unavailable

ROLES = {"admin": pb.ROLE_ADMIN, "annotator": pb.ROLE_ANNOTATOR, "viewer": pb.ROLE_VIEWER, "service": pb.ROLE_SERVICE}
_ROLE_NAMES = {number: name for name, number in ROLES.items()}
PAGE = 1000


@click.group()
def users() -> None:
    """People and programs that may call the feedback service. PRECEPTOR_API_KEY says who you are."""


@users.command("list")
@address_option
@home_option()
@json_option
def list_users(address: str | None, home: Path, as_json: bool) -> None:
    """Everybody, with role and pseudonym."""
    with AccessClient(address_of("feedback", home, address)) as client:
        found = client.list_users(pb.ListUsersRequest(page_size=PAGE)).users
    print_rows([_row(user) for user in found], as_json, "nobody yet: preceptor users add LOGIN --role admin")


def _row(user: pb.User) -> dict[str, Any]:
    names = ("login", "rater_id", "user_id", "locked")
    return {"role": _ROLE_NAMES.get(user.role, ""), **{name: getattr(user, name) for name in names}}


@users.command()
@click.argument("login")
@click.option("--role", type=click.Choice(list(ROLES)), default="annotator", show_default=True)
@click.option("--rater-id", default="", help="The pseudonym; a new random one by default.")
@click.option("--password", is_flag=True, help="Ask for a password, for the console.")
@click.option("--key", "with_key", is_flag=True, help="Make an API key and print it.")
@address_option
@home_option()
@json_option
def add(
    login: str,
    role: str,
    rater_id: str,
    password: bool,
    with_key: bool,
    address: str | None,
    home: Path,
    as_json: bool,
) -> None:
    """Make a user."""
    secret = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True) if password else ""
    request = pb.CreateUserRequest(login=login, password=secret, role=ROLES[role], rater_id=rater_id)
    with AccessClient(address_of("feedback", home, address)) as client:
        user = client.create_user(request).user
        made = client.create_api_key(pb.CreateApiKeyRequest(user_id=user.user_id)) if with_key else None
    row = _row(user) | ({"key": made.key, "key_id": made.api_key.key_id} if made else {})
    if as_json:
        print_json(row)
        return
    click.echo(f"{user.login} is {role}, ranks as {user.rater_id}, user id {user.user_id}")
    if made:
        click.echo(f"API key (shown this once): {made.key}\nkey id, to revoke it: {made.api_key.key_id}")


@users.command()
@click.argument("user_id")
@click.option("--locked/--unlocked", default=True)
@address_option
@home_option()
def lock(user_id: str, locked: bool, address: str | None, home: Path) -> None:
    """Lock a user out, or let them in again."""
    with AccessClient(address_of("feedback", home, address)) as client:
        user = client.update_user(pb.UpdateUserRequest(user_id=user_id, locked=locked)).user
    click.echo(f"{user.login} is {'locked out' if user.locked else 'let in'}")


@users.command()
@click.argument("key_id")
@address_option
@home_option()
def revoke(key_id: str, address: str | None, home: Path) -> None:
    """Make an API key worthless, within five seconds."""
    with AccessClient(address_of("feedback", home, address)) as client:
        client.revoke_api_key(pb.RevokeApiKeyRequest(key_id=key_id))
    click.echo("revoked")


@users.command()
@click.argument("user_id")
@click.option("--retract", is_flag=True, help="Take their votes out of force too.")
@click.option("--conductor-address", default=None, metavar="HOST:PORT")
@click.confirmation_option(prompt="Forget this person for good?")
@address_option
@home_option()
@json_option
def erase(
    user_id: str, retract: bool, conductor_address: str | None, address: str | None, home: Path, as_json: bool
) -> None:
    """Forget a person: identity, keys and sessions go; votes stay under a pseudonym that leads to nobody, or are
    retracted. Lists the reward models that were trained on their votes."""
    with AccessClient(address_of("feedback", home, address)) as client:
        answer = client.erase_person(pb.ErasePersonRequest(user_id=user_id, retract=retract))
    first = {one.project_id: one.first_sequence for one in answer.projects}
    models = _models_since(first, address_of("conductor", home, conductor_address)) if first else []
    votes = sum(one.votes for one in answer.projects)
    if as_json:
        told = {"rater_id": answer.rater_id, "votes": votes, "retracted": answer.retracted, "reward_models": models}
        print_json(told)
        return
    click.echo(f"{answer.rater_id}: {votes} votes in {len(first)} projects, {answer.retracted} retracted")
    if models is None:
        click.echo("the conductor does not answer: `preceptor models` lists what was trained since", err=True)
        return
    for model in models:
        click.echo(f"touched: reward model {model['reward_model_version']} of run {model['run_id']}")


def _models_since(first: dict[str, int], address: str) -> list[dict[str, Any]] | None:
    """Reward models whose labels may hold votes of these projects from these sequences on; None without conductor."""
    found: list[dict[str, Any]] = []
    token = ""
    try:
        with LoopClient(address) as client:
            while True:
                page = client.list_reward_models(loops_pb.ListRewardModelsRequest(page_size=PAGE, page_token=token))
                found += [
                    {"reward_model_version": model.reward_model_version, "run_id": model.run_id}
                    for model in page.reward_models
                    if model.label_high_water_mark >= first.get(model.project_id, 2**63)
                ]
                token = page.next_page_token
                if not token:
                    return found
    except Unavailable:
        return None


@users.command()
@click.option("--limit", type=click.IntRange(1, PAGE), default=50, show_default=True)
@address_option
@home_option()
@json_option
def audit(limit: int, address: str | None, home: Path, as_json: bool) -> None:
    """Who did what, newest first."""
    with AccessClient(address_of("feedback", home, address)) as client:
        entries = client.list_audit(pb.ListAuditRequest(page_size=limit)).entries
    rows = [
        {
            "time": entry.time.ToDatetime().isoformat(timespec="seconds"),
            "actor": entry.actor,
            "action": entry.action,
            "target": entry.target,
        }
        for entry in entries
    ]
    print_rows(rows, as_json, "nothing was done yet")
