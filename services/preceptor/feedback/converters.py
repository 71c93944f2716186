"""Between the protos and the service's values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.common.completion_protos import sampling_from, sampling_to
from preceptor.common.errors import InvalidInput
from preceptor.feedback.types import (
    AxisRating,
    Candidate,
    Comparison,
    ComparisonState,
    Offer,
    Project,
    ProjectSettings,
    Prompt,
    RankedComparison,
    Ranking,
    RankingBody,
    Snapshot,
    Stats,
    Strength,
    Submission,
    TieGroups,
    Turn,
)

_STRENGTHS = {
    fb.PREFERENCE_STRENGTH_UNSPECIFIED: None,
    fb.PREFERENCE_STRENGTH_SLIGHT: Strength.SLIGHT,
    fb.PREFERENCE_STRENGTH_CLEAR: Strength.CLEAR,
    fb.PREFERENCE_STRENGTH_STRONG: Strength.STRONG,
}
_STRENGTH_PROTOS = {strength: proto for proto, strength in _STRENGTHS.items()}
_STATES = {
    fb.COMPARISON_STATE_UNSPECIFIED: None,
    fb.COMPARISON_STATE_OPEN: ComparisonState.OPEN,
    fb.COMPARISON_STATE_COMPLETE: ComparisonState.COMPLETE,
    fb.COMPARISON_STATE_CLOSED: ComparisonState.CLOSED,
}
_STATE_PROTOS = {state: proto for proto, state in _STATES.items()}


def timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    proto = Timestamp()
    proto.FromDatetime(moment)
    return proto


def moment(proto: Timestamp, field: str) -> datetime:
    """The moment, in UTC; InvalidInput when it is none between the years 1 and 9999."""
    try:
        return proto.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{field}: is no moment: {error}", field=field) from error


def project(proto: fb.Project) -> Project:
    return Project(
        project_id=proto.project_id,
        title=proto.title,
        guidelines=proto.guidelines,
        guideline_version=proto.guideline_version,
        default_overlap=proto.default_overlap,
        axes=tuple(proto.axes),
        settings=settings(proto.settings),
    )


def settings(proto: fb.ProjectSettings) -> ProjectSettings:
    return ProjectSettings(
        gold_rate=proto.gold_rate,
        repeat_rate=proto.repeat_rate,
        pause_below_reliability=proto.pause_below_reliability,
        pause_below_gold_accuracy=proto.pause_below_gold_accuracy,
        pause_after=proto.pause_after or ProjectSettings().pause_after,
    )


def project_to_proto(value: Project) -> fb.Project:
    return fb.Project(
        project_id=value.project_id,
        title=value.title,
        guidelines=value.guidelines,
        guideline_version=value.guideline_version,
        default_overlap=value.default_overlap,
        axes=value.axes,
        settings=fb.ProjectSettings(**asdict(value.settings)),
        created_at=timestamp(value.created_at),
    )


def comparison(proto: fb.Comparison) -> Comparison:
    """What the client says of it; state, count and time are the service's own and not read."""
    return Comparison(
        comparison_id=proto.comparison_id,
        project_id=proto.project_id,
        prompt=prompt(proto.prompt),
        prompt_id=proto.prompt_id,
        candidates=tuple(_candidate(candidate) for candidate in proto.candidates),
        overlap=proto.overlap,
        priority=proto.priority,
        run_id=proto.run_id,
        group_id=proto.group_id,
        control=proto.control,
        repeat_of=proto.repeat_of,
        gold=proto.gold,
        gold_answer=tie_groups(proto.gold_answer),
        only_rater=proto.only_rater,
    )


def tie_groups(protos: Iterable[fb.TieGroup]) -> TieGroups:
    return tuple(tuple(group.candidate_ids) for group in protos)


def prompt(proto: text_pb2.Prompt) -> Prompt:
    """Neither text nor turns where the proto holds token ids, which no rater can read."""
    if proto.HasField("text"):
        return Prompt(text=proto.text)
    return Prompt(turns=tuple(Turn(message.role, message.content) for message in proto.conversation.messages))


def _candidate(proto: fb.Candidate) -> Candidate:
    return Candidate(
        candidate_id=proto.candidate_id,
        text=proto.text,
        policy_version=proto.policy_version,
        sampling=sampling_from(proto.sampling) if proto.HasField("sampling") else None,
        rollout_id=proto.rollout_id,
        truncated=proto.truncated,
    )


def comparison_to_proto(value: Comparison) -> fb.Comparison:
    return fb.Comparison(
        prompt=prompt_to_proto(value.prompt),
        candidates=[_candidate_to_proto(candidate) for candidate in value.candidates],
        state=_STATE_PROTOS[value.state],
        rankings=value.rankings,
        created_at=timestamp(value.created_at),
        gold_answer=[fb.TieGroup(candidate_ids=group) for group in value.gold_answer],
        **_content(value),
    )


def _content(value: Comparison) -> dict[str, Any]:
    names = ("comparison_id", "project_id", "prompt_id", "overlap", "priority", "run_id", "group_id")
    return {name: getattr(value, name) for name in (*names, "control", "repeat_of", "gold", "only_rater")}


def prompt_to_proto(value: Prompt) -> text_pb2.Prompt:
    if value.text is not None:
        return text_pb2.Prompt(text=value.text)
    messages = [text_pb2.Message(role=turn.role, content=turn.content) for turn in value.turns]
    return text_pb2.Prompt(conversation=text_pb2.Conversation(messages=messages))


def _candidate_to_proto(value: Candidate) -> fb.Candidate:
    proto = fb.Candidate(
        candidate_id=value.candidate_id,
        text=value.text,
        policy_version=value.policy_version,
        rollout_id=value.rollout_id,
        truncated=value.truncated,
    )
    if value.sampling is not None:
        proto.sampling.CopyFrom(sampling_to(value.sampling))
    return proto


def submission(request: pb.SubmitRankingRequest) -> Submission:
    return Submission(
        event_id=request.event_id,
        comparison_id=request.comparison_id,
        rater_id=request.rater_id,
        lease_id=request.lease_id,
        body=_body(request.body),
        shown_at=moment(request.shown_at, "shown_at") if request.HasField("shown_at") else None,
        supersedes=request.supersedes,
        client=request.client,
        submitted_at=moment(request.submitted_at, "submitted_at") if request.HasField("submitted_at") else None,
    )


def _body(proto: fb.RankingBody) -> RankingBody:
    if proto.strength not in _STRENGTHS:
        raise InvalidInput(f"body.strength: {proto.strength} is no strength; 0 to 3 are", field="body.strength")
    return RankingBody(
        tie_groups=tie_groups(proto.tie_groups),
        all_bad=proto.all_bad,
        strength=_STRENGTHS[proto.strength],
        axis_ratings=tuple(AxisRating(r.axis, r.candidate_id, r.value) for r in proto.axis_ratings),
        comment=proto.comment,
    )


def ranking_to_proto(value: Ranking) -> fb.Ranking:
    return fb.Ranking(
        event_id=value.event_id,
        sequence=value.sequence,
        project_id=value.project_id,
        comparison_id=value.comparison_id,
        rater_id=value.rater_id,
        body=_body_to_proto(value.body),
        shown_order=value.shown_order,
        lease_id=value.lease_id,
        shown_at=timestamp(value.shown_at),
        submitted_at=timestamp(value.submitted_at),
        guideline_version=value.guideline_version,
        supersedes=value.supersedes,
        late=value.late,
        client=value.client,
    )


def _body_to_proto(value: RankingBody) -> fb.RankingBody:
    return fb.RankingBody(
        tie_groups=[fb.TieGroup(candidate_ids=group) for group in value.tie_groups],
        all_bad=value.all_bad,
        strength=_STRENGTH_PROTOS[value.strength],
        axis_ratings=[
            fb.AxisRating(axis=r.axis, candidate_id=r.candidate_id, value=r.value) for r in value.axis_ratings
        ],
        comment=value.comment,
    )


def state_filter(proto: fb.ComparisonState.ValueType) -> ComparisonState | None:
    if proto not in _STATES:
        raise InvalidInput(f"state: {proto} is no comparison state; 0 (all) to 3 are", field="state")
    return _STATES[proto]


def offer_to_proto(offer: Offer) -> fb.Lease:
    return fb.Lease(
        lease_id=offer.lease.lease_id,
        comparison=comparison_to_proto(offer.comparison),
        shown_order=offer.lease.shown_order,
        expires_at=timestamp(offer.lease.expires_at),
        guidelines=offer.guidelines,
        guideline_version=offer.lease.guideline_version,
    )


def ranked_to_proto(item: RankedComparison, rater_weight: float = 1.0) -> fb.RankedComparison:
    """One line of an export. What the service counts itself is left out: the same snapshot gives the same bytes."""
    content = comparison_to_proto(item.comparison)
    for name in ("state", "rankings"):
        content.ClearField(name)
    return fb.RankedComparison(ranking=ranking_to_proto(item.ranking), comparison=content, rater_weight=rater_weight)


def snapshot_to_proto(value: Snapshot) -> fb.Snapshot:
    return fb.Snapshot(
        project_id=value.project_id,
        label_high_water_mark=value.label_high_water_mark,
        label_hash=value.label_hash,
        rankings=value.rankings,
        comparisons=value.comparisons,
    )


def stats_to_proto(value: Stats) -> pb.GetStatsResponse:
    return pb.GetStatsResponse(
        comparisons_open=value.comparisons_open,
        comparisons_complete=value.comparisons_complete,
        rankings=value.rankings,
        leases_active=value.leases_active,
        label_high_water_mark=value.label_high_water_mark,
        raters=[
            pb.RaterStats(rater_id=r.rater_id, rankings=r.rankings, median_seconds=r.median_seconds)
            for r in value.raters
        ],
    )


def number_token(token: str) -> int | None:
    """A page token of ours as the number it is; None for the first page."""
    if not token:
        return None
    if not token.isascii() or not token.isdigit() or len(token) > 18:
        raise InvalidInput(f"page_token: {token[:80]!r} did not come from this service", field="page_token")
    return int(token)


def token(key: int | str | None) -> str:
    return "" if key is None else str(key)
