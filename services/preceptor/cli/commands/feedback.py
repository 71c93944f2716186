"""`preceptor feedback`: comparisons and rankings from the command line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import click
from google.protobuf import json_format
from rich.progress import Progress

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2, feedback_service_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as generation_pb
from preceptor.cli.connection import address_of, address_option
from preceptor.cli.output import home_option, json_option, print_json, print_table
from preceptor.clients.feedback import FeedbackClient
from preceptor.clients.generation import GenerationClient
from preceptor.common.errors import InvalidInput


@click.group()
def feedback() -> None:
    """Comparisons for people to rank, and what they answered."""


@feedback.command()
@click.argument("project")
@address_option
@home_option()
@json_option
def stats(project: str, address: str | None, home: Path, as_json: bool) -> None:
    """How many comparisons wait, how many rankings there are, by whom."""
    with FeedbackClient(address_of("feedback", home, address)) as client:
        answer = client.stats(feedback_service_pb2.GetStatsRequest(project_id=project))
    if as_json:
        print_json(json_format.MessageToDict(answer, preserving_proto_field_name=True))
        return
    waiting, complete = answer.comparisons_open, answer.comparisons_complete
    click.echo(f"{answer.rankings} rankings; {waiting} comparisons open, {complete} complete")
    print_table(
        ["rater", "rankings", "median seconds"],
        [[rater.rater_id, rater.rankings, f"{rater.median_seconds:.1f}"] for rater in answer.raters],
    )


@feedback.command()
@click.argument("project")
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--high-water-mark", type=click.IntRange(0), default=0, help="Only votes up to this sequence; 0: now.")
@address_option
@home_option()
def export(project: str, output: Path, high_water_mark: int, address: str | None, home: Path) -> None:
    """Write the rankings in force to OUTPUT, a JSONL file that `preceptor train reward` reads (format: rankings)."""
    with FeedbackClient(address_of("feedback", home, address)) as client:
        snapshot = client.create_snapshot(
            feedback_service_pb2.CreateSnapshotRequest(project_id=project, label_high_water_mark=high_water_mark)
        ).snapshot
        request = feedback_service_pb2.ExportRankingsRequest(
            project_id=project, label_high_water_mark=snapshot.label_high_water_mark
        )
        staged = output.with_name(output.name + ".part")
        with Progress(transient=True) as progress, staged.open("w") as file:
            task = progress.add_task("exporting", total=snapshot.rankings)
            for answer in client.export_rankings(request):
                file.write(json_format.MessageToJson(answer.item, indent=None) + "\n")
                progress.advance(task)
        staged.replace(output)
    click.echo(f"{snapshot.rankings} rankings up to {snapshot.label_high_water_mark} -> {output}")
    click.echo(f"label hash {snapshot.label_hash}")


@feedback.command("import")
@click.argument("project")
@click.argument("source", type=click.Path(dir_okay=False, path_type=Path))
@address_option
@home_option()
def import_rankings(project: str, source: Path, address: str | None, home: Path) -> None:
    """Load rankings that `preceptor feedback export` wrote. What is there already is left as it is."""
    rows = list(read_rankings(source))
    with FeedbackClient(address_of("feedback", home, address)) as client:
        ensure_project(client, project)
        for row in rows:
            _import_row(client, project, row)
    click.echo(f"{len(rows)} rankings are in {project}")


@feedback.command()
@click.argument("project")
@click.argument("prompts", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--candidates", type=click.IntRange(2, 9), default=4, show_default=True, help="Completions per prompt.")
@click.option("--max-tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Prompts to take.")
@click.option("--generation-address", default=None, metavar="HOST:PORT")
@address_option
@home_option()
def collect(
    project: str,
    prompts: Path,
    candidates: int,
    max_tokens: int,
    limit: int,
    generation_address: str | None,
    address: str | None,
    home: Path,
) -> None:
    """Let the policy answer the prompts in a file and queue the answers for ranking."""
    from preceptor.learner.data.prompts import load_prompts

    chosen = load_prompts(prompts)[:limit]
    with (
        FeedbackClient(address_of("feedback", home, address)) as votes,
        GenerationClient(address_of("generation", home, generation_address)) as policy,
        Progress(transient=True) as progress,
    ):
        ensure_project(votes, project)
        created = 0
        for item in progress.track(chosen, description="writing"):
            prompt = _prompt_proto(item.prompt)
            comparison = sample_comparison(policy, project, prompt, item.prompt_id, candidates, max_tokens)
            if comparison is not None:
                request = feedback_service_pb2.CreateComparisonsRequest(comparisons=[comparison])
                created += votes.create_comparisons(request).created
    click.echo(f"{created} comparisons wait in {project}")


def read_rankings(source: Path) -> Iterator[feedback_pb2.RankedComparison]:
    """The rows of an export; InvalidInput names file and line of the first that is none."""
    if not source.is_file():
        raise InvalidInput(f"{source}: no such file", field="source")
    with source.open() as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json_format.Parse(line, feedback_pb2.RankedComparison())
            except json_format.ParseError as error:
                raise InvalidInput(f"{source}:{number}: not a ranking: {error}", field="source") from error


def ensure_project(client: FeedbackClient, project: str) -> None:
    """Creates the project unless it exists."""
    known = client.list_projects(feedback_service_pb2.ListProjectsRequest(page_size=1000)).projects
    if all(item.project_id != project for item in known):
        new = feedback_pb2.Project(project_id=project, title=project, default_overlap=1)
        client.create_project(feedback_service_pb2.CreateProjectRequest(project=new))


def sample_comparison(
    policy: GenerationClient,
    project: str,
    prompt: text_pb2.Prompt,
    prompt_id: str,
    candidates: int,
    max_tokens: int,
) -> feedback_pb2.Comparison | None:
    """A comparison of distinct completions drawn now, or None when they all came out the same."""
    answer = policy.generate(
        generation_pb.GenerateRequest(
            prompt=prompt, n=candidates, sampling=text_pb2.SamplingParameters(max_tokens=max_tokens)
        )
    )
    distinct = {completion.text: completion for completion in answer.completions}
    if len(distinct) < 2:
        return None
    content = "\x00".join([project, prompt_id, str(answer.admitted_policy_version), *distinct])
    return feedback_pb2.Comparison(
        comparison_id=hashlib.sha256(content.encode()).hexdigest()[:32],
        project_id=project,
        prompt=prompt,
        prompt_id=prompt_id,
        run_id=answer.run_id,
        overlap=1,
        candidates=[
            feedback_pb2.Candidate(
                candidate_id=f"c{index}",
                text=completion.text,
                policy_version=max((span.policy_version for span in completion.version_spans), default=-1),
                sampling=text_pb2.SamplingParameters(max_tokens=max_tokens),
                truncated=completion.finish_reason == text_pb2.FINISH_REASON_LENGTH,
            )
            for index, completion in enumerate(distinct.values())
        ],
    )


def _prompt_proto(prompt: str | tuple[dict[str, str], ...]) -> text_pb2.Prompt:
    if isinstance(prompt, str):
        return text_pb2.Prompt(text=prompt)
    messages = [text_pb2.Message(role=turn["role"], content=turn["content"]) for turn in prompt]
    return text_pb2.Prompt(conversation=text_pb2.Conversation(messages=messages))


def _import_row(client: FeedbackClient, project: str, row: feedback_pb2.RankedComparison) -> None:
    comparison, ranking = row.comparison, row.ranking
    comparison.project_id = project
    client.create_comparisons(feedback_service_pb2.CreateComparisonsRequest(comparisons=[comparison]))
    client.submit_ranking(
        feedback_service_pb2.SubmitRankingRequest(
            event_id=ranking.event_id,
            comparison_id=ranking.comparison_id,
            rater_id=ranking.rater_id,
            body=ranking.body,
            shown_at=ranking.shown_at,
            client=ranking.client or "import",
        )
    )
