"""Writing a snapshot's rankings to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from preceptor.api.feedback.v1 import feedback_pb2, feedback_service_pb2
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.errors import DataLoss, DeadlineExceeded, InvalidInput, Unavailable
from preceptor.feedback.formats.exporting import Export

MAX_BREAKS = 5


def write_snapshot(
    client: FeedbackClient,
    snapshot: feedback_pb2.Snapshot,
    export: Export,
    output: Path,
    progress: Callable[[int], None],
) -> None:
    """Writes the file, which appears only once it is whole. progress is told how many rankings are done.

    Raises:
        InvalidInput: the file's folder does not exist.
        DataLoss: the service sent another number of rankings than the snapshot has.
        PreceptorError: the service failed, and went on failing.
    """
    if not output.parent.is_dir():
        raise InvalidInput(f"{output}: there is no folder {output.parent}", field="output")
    staged = output.with_name(output.name + ".part")
    done = 0
    try:
        with staged.open("w", encoding="utf-8") as file:
            for item in rankings_of(client, snapshot):
                file.writelines(line + "\n" for line in export.lines(item))
                done += 1
                progress(done)
        if done != snapshot.rankings:
            raise DataLoss(f"{output}: {done} rankings came, the snapshot has {snapshot.rankings}")
        staged.replace(output)
    finally:
        staged.unlink(missing_ok=True)


def rankings_of(client: FeedbackClient, snapshot: feedback_pb2.Snapshot) -> Iterator[feedback_pb2.RankedComparison]:
    """Yields the snapshot in sequence order; a broken stream is taken up where it broke."""
    after, breaks = 0, 0
    while True:
        request = feedback_service_pb2.ExportRankingsRequest(
            project_id=snapshot.project_id,
            label_high_water_mark=snapshot.label_high_water_mark,
            after_sequence=after,
        )
        try:
            for answer in client.export_rankings(request):
                yield answer.item
                after, breaks = answer.item.ranking.sequence, 0
        except (Unavailable, DeadlineExceeded):
            breaks += 1
            if breaks >= MAX_BREAKS:
                raise
        else:
            return
