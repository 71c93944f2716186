"""`preceptor feedback`: comparisons and rankings from the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from google.protobuf import json_format
from rich.console import Console
from rich.progress import Progress

from preceptor.api.feedback.v1 import feedback_service_pb2
from preceptor.cli.commands.feedback_admin import demonstrations, gold, raters, set_project
from preceptor.cli.connection import address_of, address_option
from preceptor.cli.feedback_collect import prompt_proto, sample_comparison
from preceptor.cli.feedback_export import write_snapshot
from preceptor.cli.feedback_import import Loader, Report, Source, check_file, ensure_project, project_axes, with_axes
from preceptor.cli.output import home_option, json_option, print_json, print_table
from preceptor.clients.feedback import FeedbackClient
from preceptor.clients.generation import GenerationClient
from preceptor.common.errors import PreceptorError
from preceptor.feedback.formats.exporting import FORMATS as EXPORT_FORMATS
from preceptor.feedback.formats.exporting import Export
from preceptor.feedback.formats.importing import READERS
from preceptor.feedback.formats.labels import ImportOptions
from preceptor.feedback.formats.trl import Shape

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def feedback() -> None:
    """Comparisons for people to rank, and what they answered."""


for command in (raters, gold, set_project, demonstrations):
    feedback.add_command(command)


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
@click.argument("output", metavar="FILE", type=FILE)
@click.option(
    "--format", "format_name", type=click.Choice(EXPORT_FORMATS), default="rankings", show_default=True, help="Of FILE."
)
@click.option(
    "--shape",
    type=click.Choice([shape.value for shape in Shape]),
    default=Shape.AUTO.value,
    show_default=True,
    help="TRL's rows: strings, lists of messages, or as each prompt is.",
)
@click.option("--high-water-mark", type=click.IntRange(0), default=0, help="Only votes up to this sequence; 0: now.")
@address_option
@home_option()
@json_option
def export(
    project: str,
    output: Path,
    format_name: str,
    shape: str,
    high_water_mark: int,
    address: str | None,
    home: Path,
    as_json: bool,
) -> None:
    """Write the rankings in force to FILE, as JSON lines.

    `rankings` holds everything and is what `preceptor train reward` and `preceptor feedback import` read. The other
    formats hold less: what they leave out is counted and printed.
    """
    request = feedback_service_pb2.CreateSnapshotRequest(project_id=project, label_high_water_mark=high_water_mark)
    written = Export(format_name, Shape(shape))
    with FeedbackClient(address_of("feedback", home, address)) as client:
        snapshot = client.create_snapshot(request).snapshot
        with _progress("exporting", snapshot.rankings) as progress:
            write_snapshot(client, snapshot, written, output, progress)
    left_out = written.report()
    if as_json:
        print_json(
            {
                "project": project,
                "label_high_water_mark": snapshot.label_high_water_mark,
                "rankings": snapshot.rankings,
                "comparisons": snapshot.comparisons,
                "label_hash": snapshot.label_hash,
                "file": str(output),
                "format": format_name,
                "rows": written.rows,
                "left_out": left_out,
            }
        )
        return
    mark = snapshot.label_high_water_mark
    click.echo(f"{snapshot.rankings} rankings up to {mark} -> {written.rows} rows of {format_name} in {output}")
    click.echo(f"label hash {snapshot.label_hash}")
    for loss in left_out:
        click.echo(f"  {loss['count']} {loss['meaning']}", err=True)


@feedback.command("import")
@click.argument("project")
@click.argument("source", metavar="FILE", type=FILE)
@click.option(
    "--format", "format_name", type=click.Choice(list(READERS)), default="rankings", show_default=True, help="Of FILE."
)
@click.option("--rater", default="import", show_default=True, help="Whose votes they are, where FILE does not say.")
@click.option(
    "--overlap",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Rankings wanted per comparison, where FILE does not say; above 1, people are asked too.",
)
@click.option("--skip-bad", is_flag=True, help="Load the good rows of a file that has bad ones.")
@click.option("--check", is_flag=True, help="Read the file and report; load nothing.")
@address_option
@home_option()
@json_option
def import_labels(
    project: str,
    source: Path,
    format_name: str,
    rater: str,
    overlap: int,
    skip_bad: bool,
    check: bool,
    address: str | None,
    home: Path,
    as_json: bool,
) -> int:
    """Load preference data from FILE, JSON lines, as comparisons with a vote each.

    The whole file is checked first. Every bad row is reported with its line and reason, and unless --skip-bad is given
    nothing is loaded then. Ids follow from the content: an interrupted import is run again and adds nothing twice. The
    project is made if there is none. Times, shown order and guideline version of exported votes are the service's to
    give and are not carried over.
    """
    report = Report(project, str(source), format_name)
    asked = Source(source, format_name, ImportOptions(project, rater, overlap))
    try:
        with FeedbackClient(address_of("feedback", home, address)) as client:
            _import(client, asked, report, skip_bad=skip_bad, check=check)
    except PreceptorError as error:
        if not report.comparisons_added + report.rankings_added:
            raise
        click.echo(f"preceptor: {error}; what was loaded stays: run the same command again to go on", err=True)
    _show(report, source, as_json, check=check)
    return 0 if report.complete else 1


def _import(client: FeedbackClient, asked: Source, report: Report, *, skip_bad: bool, check: bool) -> None:
    source = with_axes(asked, project_axes(client, asked.options.project_id))
    with _progress("checking", _size(source.path)) as progress:
        axes = check_file(source, report, progress)
    if check:
        report.complete = not report.bad_rows
        return
    if report.bad_rows and not skip_bad:
        return
    source = with_axes(source, ensure_project(client, report.project, axes))
    with _progress("loading", _size(source.path)) as progress:
        Loader(client, source, report, skip_bad=skip_bad).load(progress)


def _show(report: Report, source: Path, as_json: bool, *, check: bool) -> None:
    for bad in sorted(report.bad_rows, key=lambda bad: bad.line):
        click.echo(f"{source}:{bad.line}: {bad.reason}", err=True)
    if as_json:
        print_json(report.as_json())
        return
    for note in report.notes:
        click.echo(f"{source}:{note.line}: note: {note.reason}", err=True)
    for name, rows in sorted(report.not_carried.items()):
        click.echo(f"not carried over: {name} ({rows} rows)", err=True)
    click.echo(f"{report.rows} rows, {len(report.bad_rows)} of them bad")
    if check:
        return
    click.echo(
        f"{report.rankings_added} rankings added to {report.project}, {report.rankings_already_there} were there "
        f"already; {report.comparisons_added} new comparisons"
    )
    if report.notes_left_out:
        click.echo(f"{report.notes_left_out} further notes are not shown", err=True)
    if report.bad_rows and not report.complete:
        loaded = "the import stopped at them" if report.comparisons_added else "nothing was loaded"
        click.echo(f"there are bad rows and {loaded}: correct them, or load the rest with --skip-bad", err=True)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; gives a function that takes how much is done."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@feedback.command()
@click.argument("project")
@click.argument("prompts", type=FILE)
@click.option("--candidates", type=click.IntRange(2, 9), default=4, show_default=True, help="Completions per prompt.")
@click.option("--max-tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Prompts to take.")
@click.option("--generation-address", default=None, metavar="HOST:PORT")
@address_option
@home_option()
@json_option
def collect(
    project: str,
    prompts: Path,
    candidates: int,
    max_tokens: int,
    limit: int,
    generation_address: str | None,
    address: str | None,
    home: Path,
    as_json: bool,
) -> None:
    """Let the policy answer the prompts in a file and queue the answers for ranking."""
    from preceptor.learner.data.prompts import load_prompts

    chosen = load_prompts(prompts)[:limit]
    created = alike = 0
    with (
        FeedbackClient(address_of("feedback", home, address)) as votes,
        GenerationClient(address_of("generation", home, generation_address)) as policy,
        _progress("writing", len(chosen)) as progress,
    ):
        ensure_project(votes, project, set())
        for done, item in enumerate(chosen, start=1):
            prompt = prompt_proto(item.prompt)
            comparison = sample_comparison(policy, project, prompt, item.prompt_id, candidates, max_tokens)
            if comparison is None:
                alike += 1
            else:
                request = feedback_service_pb2.CreateComparisonsRequest(comparisons=[comparison])
                created += votes.create_comparisons(request).created
            progress(done)
    if as_json:
        print_json({"project": project, "prompts": len(chosen), "comparisons_added": created, "all_alike": alike})
        return
    click.echo(f"{created} comparisons wait in {project}")
    if alike:
        click.echo(f"to {alike} prompts the policy wrote one answer only: nothing to compare", err=True)
