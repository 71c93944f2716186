"""`preceptor feedback raters|gold|set`: what those who run a labelling project do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from google.protobuf import json_format

from preceptor.api.feedback.v1 import feedback_pb2
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.cli.connection import address_of, address_option
from preceptor.cli.feedback_raters import show_report
from preceptor.cli.output import home_option, json_option, print_json
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.errors import InvalidInput

SETTINGS = {
    "gold_rate": float,
    "repeat_rate": float,
    "pause_below_reliability": float,
    "pause_below_gold_accuracy": float,
    "pause_after": int,
}


@click.command()
@click.argument("project")
@click.option("--pause", metavar="RATER", default=None, help="Give this rater no more work; needs --reason.")
@click.option("--resume", metavar="RATER", default=None, help="Give this rater work again.")
@click.option("--reason", default="", help="Why; the rater reads it.")
@address_option
@home_option()
@json_option
def raters(
    project: str, pause: str | None, resume: str | None, reason: str, address: str | None, home: Path, as_json: bool
) -> None:
    """How far the raters agree, and how far each can be trusted.

    Reliability is the chance of ordering a pair of completions rightly, estimated from what all raters say together
    (Dawid-Skene) and from gold items. Weight, 2 x reliability - 1, is what the rater's votes count in training.
    """
    if pause and resume:
        raise InvalidInput("--pause and --resume exclude each other", field="pause")
    with FeedbackClient(address_of("feedback", home, address)) as client:
        if rater := pause or resume:
            client.set_rater_state(
                pb.SetRaterStateRequest(project_id=project, rater_id=rater, paused=bool(pause), reason=reason)
            )
        report = client.get_rater_report(pb.GetRaterReportRequest(project_id=project)).report
    if as_json:
        print_json(
            json_format.MessageToDict(
                report, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
        )
        return
    show_report(report)


@click.command()
@click.argument("project")
@click.option("--min-raters", type=click.IntRange(1, 100), default=2, show_default=True, help="Who all agreed.")
@click.option("--max-items", type=click.IntRange(1, 1000), default=50, show_default=True)
@address_option
@home_option()
@json_option
def gold(project: str, min_raters: int, max_items: int, address: str | None, home: Path, as_json: bool) -> None:
    """Make gold items of comparisons on which raters agreed; `set gold_rate` says how often they are served."""
    request = pb.MintGoldRequest(project_id=project, min_raters=min_raters, max_items=max_items)
    with FeedbackClient(address_of("feedback", home, address)) as client:
        made = client.mint_gold(request)
    if as_json:
        print_json({"project": project, "gold_items": list(made.comparison_ids), "created": made.created})
        return
    click.echo(f"{made.created} gold items made in {project}, {len(made.comparison_ids)} in all")


@click.command("set")
@click.argument("project")
@click.argument("assignments", metavar="NAME=VALUE...", nargs=-1, required=True)
@address_option
@home_option()
@json_option
def set_project(project: str, assignments: tuple[str, ...], address: str | None, home: Path, as_json: bool) -> None:
    """Change a project: title, default_overlap, guidelines (a Markdown file), gold_rate, repeat_rate,
    pause_below_reliability, pause_below_gold_accuracy, pause_after."""
    request = update_request(project, assignments)
    with FeedbackClient(address_of("feedback", home, address)) as client:
        stored = client.update_project(request).project
    if as_json:
        print_json(json_format.MessageToDict(stored, preserving_proto_field_name=True))
        return
    click.echo(f"{project}: {', '.join(request.update_mask.paths)} set; guidelines version {stored.guideline_version}")


def update_request(project: str, assignments: tuple[str, ...]) -> pb.UpdateProjectRequest:
    """Raises InvalidInput for what is no NAME=VALUE that a project has."""
    request = pb.UpdateProjectRequest()
    request.project.project_id = project
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise InvalidInput(f"{assignment!r}: write NAME=VALUE", field="assignments")
        try:
            _assign(request, name, value)
        except ValueError as error:
            raise InvalidInput(f"{name}: {value!r} is no number", field=name) from error
    return request


def _assign(request: pb.UpdateProjectRequest, name: str, value: str) -> None:
    if name in SETTINGS:
        setattr(request.project.settings, name, SETTINGS[name](value))
        request.update_mask.paths.append(f"settings.{name}")
        return
    if name == "title":
        request.project.title = value
    elif name == "default_overlap":
        request.project.default_overlap = int(value)
    elif name == "guidelines":
        path = Path(value)
        if not path.is_file():
            raise InvalidInput(f"guidelines: there is no file {path}", field="guidelines")
        request.project.guidelines = path.read_text(encoding="utf-8")
    else:
        allowed = ", ".join(["title", "default_overlap", "guidelines", *SETTINGS])
        raise InvalidInput(f"{name}: cannot be set; these can: {allowed}", field=name)
    request.update_mask.paths.append(name)


@click.command()
@click.argument("project")
@click.argument("output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@address_option
@home_option()
@json_option
def demonstrations(project: str, output: Path, address: str | None, home: Path, as_json: bool) -> None:
    """Write what people would have answered to FILE, as rows for `preceptor train sft`.

    {messages} where the prompt is a conversation, {prompt, completion} where it is text.
    """
    if not output.parent.is_dir():
        raise InvalidInput(f"{output}: there is no folder {output.parent}", field="output")
    staged = output.with_name(output.name + ".part")
    with FeedbackClient(address_of("feedback", home, address)) as client, staged.open("w", encoding="utf-8") as file:
        rows = 0
        for demonstration in demonstrations_of(client, project):
            file.write(json.dumps(sft_row(demonstration)) + "\n")
            rows += 1
    staged.replace(output)
    if as_json:
        print_json({"project": project, "rows": rows, "file": str(output)})
        return
    click.echo(f"{rows} demonstrations -> {output}")


def demonstrations_of(client: FeedbackClient, project: str) -> Iterator[feedback_pb2.Demonstration]:
    """All of a project, oldest first."""
    request = pb.ListDemonstrationsRequest(project_id=project, page_size=1000)
    while True:
        page = client.list_demonstrations(request)
        yield from page.demonstrations
        request.page_token = page.next_page_token
        if not request.page_token:
            return


def sft_row(demonstration: feedback_pb2.Demonstration) -> dict[str, Any]:
    """One row of supervised fine-tuning."""
    prompt = demonstration.prompt
    if prompt.WhichOneof("content") == "conversation":
        turns = [{"role": turn.role, "content": turn.content} for turn in prompt.conversation.messages]
        return {"messages": [*turns, {"role": "assistant", "content": demonstration.text}]}
    return {"prompt": prompt.text, "completion": demonstration.text}
