"""Loading a file of preference data: once through to check it, once more to send it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from preceptor.api.feedback.v1 import feedback_pb2, feedback_service_pb2
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    Overloaded,
    PreceptorError,
    Unavailable,
)
from preceptor.feedback.formats.importing import read_labels
from preceptor.feedback.formats.labels import ImportOptions, Label, Reading
from preceptor.feedback.formats.rows import BadRow

BATCH = 100
BATCH_BYTES = 2 << 20
MAX_BAD_ROWS = 10_000
MAX_NOTES = 1_000
PATIENCE_S = 30.0
_RETRY_S = 0.5
# What the service says of one row and not of the system.
_REFUSALS = (InvalidInput, AlreadyExists, NotFound, FailedPrecondition)
T = TypeVar("T")
Progress = Callable[[int], None]


@dataclass(slots=True)
class Report:
    """What became of a file. complete: every row was either loaded or is a bad row that was to be skipped."""

    project: str
    file: str
    format: str
    rows: int = 0
    comparisons_added: int = 0
    rankings_added: int = 0
    rankings_already_there: int = 0
    complete: bool = False
    bad_rows: list[BadRow] = field(default_factory=list)
    notes: list[BadRow] = field(default_factory=list)
    notes_left_out: int = 0
    not_carried: Counter[str] = field(default_factory=Counter)

    def note(self, line: int, text: str) -> None:
        """Keeps the first MAX_NOTES."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append(BadRow(line, text))
        else:
            self.notes_left_out += 1

    def as_json(self) -> dict[str, Any]:
        names = ("project", "file", "format", "rows", "comparisons_added", "rankings_added", "rankings_already_there")
        return {
            **{name: getattr(self, name) for name in names},
            "complete": self.complete,
            "bad_rows": [{"line": bad.line, "reason": bad.reason} for bad in sorted(self.bad_rows, key=_line)],
            "notes": [{"line": note.line, "note": note.reason} for note in self.notes],
            "notes_left_out": self.notes_left_out,
            "not_carried": dict(sorted(self.not_carried.items())),
        }


@dataclass(frozen=True, slots=True)
class Source:
    path: Path
    format_name: str
    options: ImportOptions


def check_file(source: Source, report: Report, progress: Progress) -> set[str]:
    """Reads the whole file into the report and sends nothing. Returns the axes that it rates.

    Raises:
        InvalidInput: there is no such file, it has no rows, or so many bad ones that it is something else.
    """
    reading = Reading(source.options)
    for label in read_labels(source.path, source.format_name, reading):
        report.rows += 1
        progress(label.offset)
        if isinstance(label, BadRow):
            report.bad_rows.append(label)
            _check_bad_rows(report)
            continue
        for note in label.notes:
            report.note(label.line, note)
        report.not_carried.update(label.not_carried)
    if not report.rows:
        raise InvalidInput(f"{source.path}: holds no rows", field="source")
    return reading.axes_rated


def _check_bad_rows(report: Report) -> None:
    if len(report.bad_rows) >= MAX_BAD_ROWS:
        raise InvalidInput(
            f"{report.file}: {MAX_BAD_ROWS} bad rows up to line {report.bad_rows[-1].line}, the first at line "
            f"{report.bad_rows[0].line}: {report.bad_rows[0].reason}; is the file of format {report.format}?",
            field="source",
        )


def ensure_project(client: FeedbackClient, project_id: str, axes: set[str]) -> frozenset[str]:
    """Creates the project, with these axes, unless it exists. Returns the axes that it has."""
    known = project_axes(client, project_id)
    if known is not None:
        return known
    new = feedback_pb2.Project(project_id=project_id, title=project_id, default_overlap=1, axes=sorted(axes))
    made = client.create_project(feedback_service_pb2.CreateProjectRequest(project=new))
    return frozenset(made.project.axes)


def project_axes(client: FeedbackClient, project_id: str) -> frozenset[str] | None:
    """The axes of a project; None where there is no such project."""
    try:
        answer = client.get_project(feedback_service_pb2.GetProjectRequest(project_id=project_id))
    except NotFound:
        return None
    return frozenset(answer.project.axes)


class Loader:
    """Sends the good rows of a checked file. What is there already stays as it is, so it may be run again at any time.

    Args:
        skip_bad: go on after rows that the service refuses; otherwise the first such batch is the last.
    """

    def __init__(self, client: FeedbackClient, source: Source, report: Report, *, skip_bad: bool) -> None:
        self._client = client
        self._source = source
        self._report = report
        self._skip_bad = skip_bad
        self._newest = 0
        self._waiting: list[Label] = []  # repeats whose original has not come yet

    def load(self, progress: Progress) -> None:
        """Returns with everything loaded, or `report.complete` false.

        Raises:
            PreceptorError: the service cannot be reached or its backlog is full; the report says how far it came.
        """
        stats = feedback_service_pb2.GetStatsRequest(project_id=self._source.options.project_id)
        self._newest = _patiently(lambda: self._client.stats(stats)).label_high_water_mark
        known_bad = len(self._report.bad_rows)
        for batch in self._batches():
            self._send(batch)
            _check_bad_rows(self._report)
            if len(self._report.bad_rows) > known_bad and not self._skip_bad:
                return
            progress(batch[-1].offset)
        self._send_waiting()
        self._report.complete = self._skip_bad or len(self._report.bad_rows) == known_bad

    def _batches(self) -> Iterator[list[Label]]:
        batch: list[Label] = []
        size = 0
        reading = Reading(self._source.options)
        for label in read_labels(self._source.path, self._source.format_name, reading):
            if isinstance(label, BadRow):
                continue  # the check has it
            batch.append(label)
            size += label.comparison.ByteSize()
            if len(batch) >= BATCH or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _send(self, batch: list[Label]) -> None:
        try:
            self._create(batch)
        except _REFUSALS:
            batch = [label for label in batch if self._create_one(label)]
        for label in batch:
            self._vote(label)

    def _create(self, batch: list[Label]) -> None:
        request = feedback_service_pb2.CreateComparisonsRequest(comparisons=[label.comparison for label in batch])
        self._report.comparisons_added += _patiently(lambda: self._client.create_comparisons(request)).created

    def _create_one(self, label: Label) -> bool:
        try:
            self._create([label])
        except NotFound as error:
            if not (error.field or "").endswith("repeat_of"):
                self._refuse(label, error)
                return False
            self._waiting.append(label)
            return False
        except _REFUSALS as error:
            self._refuse(label, error)
            return False
        return True

    def _send_waiting(self) -> None:
        """Sends repeats after their originals, as often as that lets one more through."""
        while waiting := self._waiting:
            self._waiting = []
            self._send(waiting)
            if len(self._waiting) == len(waiting):
                for label in waiting:
                    original = label.comparison.repeat_of
                    self._report.bad_rows.append(BadRow(label.line, f"repeats {original!r}, which is not there"))
                return

    def _vote(self, label: Label) -> None:
        try:
            ranking = _patiently(lambda: self._client.submit_ranking(label.vote)).ranking
        except _REFUSALS as error:
            self._refuse(label, error)
            return
        if ranking.sequence > self._newest:
            self._report.rankings_added += 1
        else:
            self._report.rankings_already_there += 1

    def _refuse(self, label: Label, error: PreceptorError) -> None:
        self._report.bad_rows.append(BadRow(label.line, error.message.removeprefix("comparisons[0].")))


def with_axes(source: Source, axes: frozenset[str] | None) -> Source:
    return replace(source, options=replace(source.options, axes=axes))


def _line(bad: BadRow) -> int:
    return bad.line


def _patiently(call: Callable[[], T]) -> T:
    """The call's answer, asked for again for PATIENCE_S while the service restarts or is busy; every call is safe to
    repeat.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except (DeadlineExceeded, Overloaded, Unavailable) as error:
            if error.reason == "BACKLOG_FULL" or time.monotonic() >= deadline:
                raise
            threading.Event().wait(min(error.retry_after_s or _RETRY_S, PATIENCE_S))
