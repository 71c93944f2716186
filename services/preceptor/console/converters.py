"""Protos to the console's models and back."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from preceptor.api.common.v1 import text_pb2
from preceptor.api.conductor.v1 import loop_service_pb2 as loops_pb
from preceptor.api.feedback.v1 import feedback_pb2 as pb
from preceptor.api.feedback.v1 import feedback_service_pb2 as service_pb
from preceptor.common.errors import InternalError
from preceptor.console import types

STRENGTHS: dict[int, types.Strength] = {
    pb.PREFERENCE_STRENGTH_UNSPECIFIED: "unspecified",
    pb.PREFERENCE_STRENGTH_SLIGHT: "slight",
    pb.PREFERENCE_STRENGTH_CLEAR: "clear",
    pb.PREFERENCE_STRENGTH_STRONG: "strong",
}
_STRENGTH_NUMBERS = {name: number for number, name in STRENGTHS.items()}


def moment(timestamp: Timestamp) -> datetime | None:
    """A timestamp as an aware datetime; None for the zero that stands for "not set"."""
    if timestamp.seconds == 0 and timestamp.nanos == 0:
        return None
    return timestamp.ToDatetime(tzinfo=UTC)


def timestamp(value: datetime | None) -> Timestamp | None:
    """The reverse of `moment`."""
    if value is None:
        return None
    result = Timestamp()
    result.FromDatetime(value)
    return result


def prompt(message: text_pb2.Prompt) -> tuple[types.Message, ...]:
    """The turns; a plain text is one turn with the role "prompt"."""
    if message.WhichOneof("content") == "conversation":
        return tuple(types.Message(role=turn.role, content=turn.content) for turn in message.conversation.messages)
    return (types.Message(role="prompt", content=message.text),)


def project(message: pb.Project) -> types.Project:
    """A project."""
    return types.Project(
        project_id=message.project_id,
        title=message.title,
        guidelines=message.guidelines,
        guideline_version=message.guideline_version,
        default_overlap=message.default_overlap,
        axes=tuple(message.axes),
        settings=settings(message.settings),
    )


def settings(message: pb.ProjectSettings) -> types.ProjectSettings:
    """How a project measures its raters; an older service has no settings."""
    return types.ProjectSettings(
        gold_rate=message.gold_rate,
        repeat_rate=message.repeat_rate,
        pause_below_reliability=message.pause_below_reliability,
        pause_below_gold_accuracy=message.pause_below_gold_accuracy,
        pause_after=message.pause_after or 20,
    )


def shown_comparison(message: pb.Comparison, shown_order: tuple[str, ...] = ()) -> types.ShownComparison:
    """A comparison without anything that tells where a candidate came from, in the order drawn for the rater."""
    by_id = {candidate.candidate_id: candidate for candidate in message.candidates}
    order = shown_order if set(shown_order) == set(by_id) else tuple(by_id)
    candidates = tuple(types.ShownCandidate(candidate_id=name, text=by_id[name].text) for name in order)
    return types.ShownComparison(
        comparison_id=message.comparison_id,
        project_id=message.project_id,
        prompt=prompt(message.prompt),
        candidates=candidates,
    )


def lease(message: pb.Lease, now: datetime) -> types.Lease:
    """A lease as of `now`. Raises InternalError when it names no end."""
    expires_at = _expiry(message.expires_at)
    return types.Lease(
        lease_id=message.lease_id,
        comparison=shown_comparison(message.comparison, tuple(message.shown_order)),
        leased_at=now,
        expires_at=expires_at,
        expires_in_seconds=max(0.0, (expires_at - now).total_seconds()),
        guideline_version=message.guideline_version,
    )


def extension(message: service_pb.ExtendLeaseResponse, now: datetime) -> types.LeaseExtension:
    """The new end of a lease as of `now`."""
    expires_at = _expiry(message.expires_at)
    return types.LeaseExtension(expires_at=expires_at, expires_in_seconds=max(0.0, (expires_at - now).total_seconds()))


def submission(request: types.RankingRequest, client: str) -> service_pb.SubmitRankingRequest:
    """A vote as the feedback service takes it."""
    body = pb.RankingBody(
        tie_groups=[pb.TieGroup(candidate_ids=group) for group in request.tie_groups],
        all_bad=request.all_bad,
        strength=pb.PreferenceStrength.ValueType(_STRENGTH_NUMBERS[request.strength]),
        axis_ratings=[
            pb.AxisRating(axis=rating.axis, candidate_id=rating.candidate_id, value=rating.value)
            for rating in request.axis_ratings
        ],
        comment=request.comment,
    )
    return service_pb.SubmitRankingRequest(
        event_id=request.event_id,
        comparison_id=request.comparison_id,
        rater_id=request.rater_id,
        lease_id=request.lease_id,
        body=body,
        shown_at=timestamp(request.shown_at),
        submitted_at=timestamp(request.submitted_at),
        supersedes=request.supersedes or "",
        client=client,
    )


def ranking(message: pb.Ranking) -> types.Ranking:
    """A stored vote."""
    body = message.body
    return types.Ranking(
        event_id=message.event_id,
        sequence=message.sequence,
        project_id=message.project_id,
        comparison_id=message.comparison_id,
        rater_id=message.rater_id,
        tie_groups=tuple(tuple(group.candidate_ids) for group in body.tie_groups),
        all_bad=body.all_bad,
        strength=STRENGTHS[body.strength],
        axis_ratings=tuple(
            types.AxisRating(axis=rating.axis, candidate_id=rating.candidate_id, value=rating.value)
            for rating in body.axis_ratings
        ),
        comment=body.comment,
        shown_order=tuple(message.shown_order),
        shown_at=moment(message.shown_at),
        submitted_at=moment(message.submitted_at),
        guideline_version=message.guideline_version,
        supersedes=message.supersedes,
        late=message.late,
        client=message.client,
    )


def stats(message: service_pb.GetStatsResponse) -> types.Stats:
    """A project's figures."""
    return types.Stats(
        comparisons_open=message.comparisons_open,
        comparisons_complete=message.comparisons_complete,
        rankings=message.rankings,
        leases_active=message.leases_active,
        raters=tuple(
            types.RaterStats(rater_id=rater.rater_id, rankings=rater.rankings, median_seconds=rater.median_seconds)
            for rater in message.raters
        ),
        label_high_water_mark=message.label_high_water_mark,
    )


def samples(message: pb.Comparison) -> list[types.Sample]:
    """Every candidate of a comparison, with its provenance."""
    turns = prompt(message.prompt)
    return [
        types.Sample(
            prompt=turns,
            text=candidate.text,
            policy_version=candidate.policy_version,
            truncated=candidate.truncated,
            run_id=message.run_id,
        )
        for candidate in message.candidates
    ]


LOOP_STATES: dict[int, types.LoopState] = {
    loops_pb.LOOP_STATE_RUNNING: "running",
    loops_pb.LOOP_STATE_SUCCEEDED: "succeeded",
    loops_pb.LOOP_STATE_FAILED: "failed",
    loops_pb.LOOP_STATE_STOPPED: "stopped",
}


def stage(message: loops_pb.Stage) -> types.Stage:
    """One stage of a loop."""
    return types.Stage(
        name=message.name,
        state=message.state,
        started_at=moment(message.started_at),
        finished_at=moment(message.finished_at),
        run_id=message.run_id,
        progress=min(1.0, max(0.0, message.progress)),
        message=message.message,
    )


def loop(message: loops_pb.Loop) -> types.Loop:
    """A loop."""
    return types.Loop(
        loop_id=message.loop_id,
        state=LOOP_STATES.get(message.state, "unspecified"),
        stages=tuple(stage(item) for item in message.stages),
        iteration=message.iteration,
        iterations=message.iterations,
        error=message.error,
        created_at=moment(message.created_at),
    )


def run(message: loops_pb.Run) -> types.Run:
    """A training job."""
    return types.Run(
        run_id=message.run_id,
        loop_id=message.loop_id,
        kind=message.kind,
        state=message.state,
        attempt=message.attempt,
        output_uri=message.output_uri,
        created_at=moment(message.created_at),
    )


def reward_model(message: loops_pb.RewardModel) -> types.RewardModel:
    """A registered reward model."""
    return types.RewardModel(
        reward_model_version=message.reward_model_version,
        run_id=message.run_id,
        project_id=message.project_id,
        label_high_water_mark=message.label_high_water_mark,
        label_hash=message.label_hash,
        rankings=message.rankings,
        heldout_accuracy=message.heldout_accuracy,
        noise_ceiling=message.noise_ceiling,
        promoted=message.promoted,
        gate=message.gate,
        created_at=moment(message.created_at),
    )


def event(message: loops_pb.Event) -> types.Event:
    """Something that happened in a loop."""
    return types.Event(
        sequence=message.sequence,
        time=moment(message.time),
        kind=message.kind,
        stage=message.stage,
        message=message.message,
        values=dict(message.values),
    )


def _expiry(value: Timestamp) -> datetime:
    expires_at = moment(value)
    if expires_at is None:
        raise InternalError("the feedback service gave a lease without an end")
    return expires_at
