"""`preceptor generate` and `preceptor score`: one call to each of the two services that serve models."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from google.protobuf import json_format

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as generation_pb
from preceptor.api.reward.v1 import reward_service_pb2 as reward_pb
from preceptor.cli.connection import address_of, address_option
from preceptor.cli.output import home_option, json_option, print_json, print_table
from preceptor.clients.generation import GenerationClient
from preceptor.clients.reward import RewardClient
from preceptor.common.errors import InvalidInput


@click.command()
@click.argument("prompt")
@click.option("-n", "count", type=click.IntRange(1, 64), default=1, show_default=True, help="Completions to draw.")
@click.option("--max-tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option("--temperature", type=click.FloatRange(0), default=1.0, show_default=True, help="0 is greedy.")
@click.option("--chat", is_flag=True, help="Send the prompt as a user's message, through the chat template.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1), default=120.0, show_default=True)
@address_option
@home_option()
@json_option
def generate(
    prompt: str,
    count: int,
    max_tokens: int,
    temperature: float,
    chat: bool,
    timeout_s: float,
    address: str | None,
    home: Path,
    as_json: bool,
) -> None:
    """Let the policy complete PROMPT ("-" reads standard input)."""
    request = generation_pb.GenerateRequest(
        prompt=prompt_of(sys.stdin.read() if prompt == "-" else prompt, chat=chat),
        sampling=text_pb2.SamplingParameters(temperature=temperature, max_tokens=max_tokens),
        n=count,
    )
    with GenerationClient(address_of("generation", home, address)) as client:
        answer = client.generate(request, timeout_s=timeout_s)
    if as_json:
        print_json(json_format.MessageToDict(answer, preserving_proto_field_name=True))
        return
    for completion in answer.completions:
        click.echo(completion.text)
    click.echo(f"policy version {answer.admitted_policy_version} of {answer.run_id or 'a fixed model'}", err=True)


@click.command()
@click.argument("prompt")
@click.argument("completions", nargs=-1, required=True)
@click.option("--model", default="", help="A loaded reward model or function; the current one if not given.")
@click.option("--chat", is_flag=True, help="Send the prompt as a user's message, through the reward model's template.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1), default=60.0, show_default=True)
@address_option
@home_option()
@json_option
def score(
    prompt: str,
    completions: tuple[str, ...],
    model: str,
    chat: bool,
    timeout_s: float,
    address: str | None,
    home: Path,
    as_json: bool,
) -> None:
    """Score COMPLETIONS of PROMPT with a reward model."""
    items = [reward_pb.ScoreItem(prompt=prompt_of(prompt, chat=chat), completion=text) for text in completions]
    with RewardClient(address_of("reward", home, address)) as client:
        answer = client.score(reward_pb.ScoreRequest(model=model, items=items), timeout_s=timeout_s)
    if as_json:
        print_json(json_format.MessageToDict(answer, preserving_proto_field_name=True))
    else:
        scored = zip(answer.results, completions, strict=True)
        rows = [[r.error.reason if r.HasField("error") else f"{r.score:.4f}", text] for r, text in scored]
        print_table(["score", "completion"], rows)
        click.echo(f"{answer.model}, version {answer.reward_model_version}", err=True)
    if any(result.HasField("error") for result in answer.results):
        click.get_current_context().exit(1)


def prompt_of(text: str, *, chat: bool) -> text_pb2.Prompt:
    """A prompt proto of plain text, or of one user message. InvalidInput when it is empty."""
    if not text.strip():
        raise InvalidInput("the prompt is empty", field="prompt")
    if not chat:
        return text_pb2.Prompt(text=text)
    message = text_pb2.Message(role="user", content=text)
    return text_pb2.Prompt(conversation=text_pb2.Conversation(messages=[message]))
