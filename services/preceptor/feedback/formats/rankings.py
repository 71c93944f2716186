"""Our own format: a feedback.v1.RankedComparison per line, as proto JSON. The file holds all that the service knows."""

from __future__ import annotations

from google.protobuf import json_format

from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.feedback import canonical
from preceptor.feedback.formats.labels import CLIENT, Label, Reading, derived_event_id
from preceptor.feedback.formats.rows import Row, RowError

# The service's own account of a comparison.
_OUTPUT_ONLY = ("state", "rankings", "created_at")


def to_json(item: fb.RankedComparison) -> str:
    """One line, without its end."""
    return json_format.MessageToJson(item, indent=None)


def read(row: Row, reading: Reading) -> Label:
    """The vote with its own ids in the project that it came from; in another one, with ids made from them.

    An export holds votes in force alone, so what a vote superseded is left out. The service gives sequence and times.

    Raises:
        RowError: the row is no ranking, or its parts contradict each other.
    """
    item = fb.RankedComparison()
    try:
        json_format.ParseDict(row.fields, item)
    except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
        raise RowError(f"not an exported ranking (feedback.v1.RankedComparison): {error}") from error
    comparison, given = item.comparison, item.ranking
    if given.comparison_id != comparison.comparison_id:
        raise RowError(f"the ranking is of {given.comparison_id!r}, the comparison is {comparison.comparison_id!r}")
    for name in _OUTPUT_ONLY:
        comparison.ClearField(name)  # type: ignore[arg-type]
    vote = pb.SubmitRankingRequest(
        event_id=given.event_id,
        comparison_id=given.comparison_id,
        rater_id=given.rater_id,
        body=given.body,
        client=CLIENT,
    )
    if comparison.project_id not in ("", reading.options.project_id):
        _move(comparison, vote, reading.options.project_id)
    comparison.project_id = reading.options.project_id
    return Label(row.line, comparison, vote, not_carried=tuple(_left_behind(given)), offset=row.offset)


def _move(comparison: fb.Comparison, vote: pb.SubmitRankingRequest, project_id: str) -> None:
    """Ids are unique over all projects of a service, and the originals may be in this very one."""
    comparison.comparison_id = vote.comparison_id = _moved_id(comparison.comparison_id, project_id)
    if comparison.repeat_of:
        comparison.repeat_of = _moved_id(comparison.repeat_of, project_id)
    if vote.event_id:
        vote.event_id = derived_event_id(vote.event_id, project_id)


def _moved_id(comparison_id: str, project_id: str) -> str:
    return f"import-{canonical.digest([comparison_id, project_id])[:32]}" if comparison_id else ""


def _left_behind(given: fb.Ranking) -> list[str]:
    held = {
        "shown_order": bool(given.shown_order),
        "shown_at and submitted_at": given.HasField("shown_at") or given.HasField("submitted_at"),
        "guideline_version": bool(given.guideline_version),
        "late": given.late,
        "client": given.client not in ("", CLIENT),
    }
    return [name for name, there in held.items() if there]
