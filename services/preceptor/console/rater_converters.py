"""Protos of raters and demonstrations to the console's models."""

from __future__ import annotations

from preceptor.api.feedback.v1 import feedback_pb2 as pb
from preceptor.api.feedback.v1 import feedback_service_pb2 as service_pb
from preceptor.api.feedback.v1 import quality_pb2
from preceptor.console import converters, rater_types, types


def estimate(message: quality_pb2.Estimate) -> rater_types.Estimate:
    """A value with its interval."""
    return rater_types.Estimate(value=message.value, low=message.low, high=message.high, n=message.n)


def rater_state(message: quality_pb2.RaterState) -> rater_types.RaterState:
    """Whether a rater is paused."""
    return rater_types.RaterState(
        rater_id=message.rater_id,
        paused=message.paused,
        reason=message.reason,
        changed_by=message.changed_by,
        changed_at=converters.moment(message.changed_at),
    )


def report(message: quality_pb2.RaterReport) -> rater_types.RaterReport:
    """A project's report on raters."""
    return rater_types.RaterReport(
        project_id=message.project_id,
        label_high_water_mark=message.label_high_water_mark,
        rankings=message.rankings,
        shared_comparisons=message.shared_comparisons,
        krippendorff_alpha=estimate(message.krippendorff_alpha),
        fleiss_kappa=estimate(message.fleiss_kappa),
        fleiss_raters=message.fleiss_raters,
        cohen_kappa=tuple(
            rater_types.RaterPair(rater_a=pair.rater_a, rater_b=pair.rater_b, kappa=estimate(pair.kappa))
            for pair in message.cohen_kappa
        ),
        raters=tuple(_rater(rater) for rater in message.raters),
        unknown_weight=message.unknown_weight,
    )


def _rater(message: quality_pb2.RaterQuality) -> rater_types.RaterQuality:
    return rater_types.RaterQuality(
        rater_id=message.rater_id,
        rankings=message.rankings,
        reliability=estimate(message.reliability),
        weight=message.weight,
        gold_accuracy=estimate(message.gold_accuracy),
        left_wins=estimate(message.left_wins),
        self_consistency=estimate(message.self_consistency),
        median_seconds=message.median_seconds,
        fast_share=message.fast_share,
        slow_share=message.slow_share,
        careless=message.careless,
        findings=tuple(message.findings),
        state=rater_state(message.state),
    )


def project_update(project_id: str, update: types.ProjectUpdate) -> service_pb.UpdateProjectRequest:
    """Only what was sent is named in the mask."""
    given = {name: value for name in update.model_fields_set if (value := getattr(update, name)) is not None}
    request = service_pb.UpdateProjectRequest(project=pb.Project(project_id=project_id))
    for name, value in given.items():
        if name == "settings":
            request.project.settings.CopyFrom(pb.ProjectSettings(**value.model_dump()))
        elif name == "axes":
            request.project.axes.extend(value)
        else:
            setattr(request.project, name, value)
    request.update_mask.paths.extend(sorted(given))
    return request


def demonstration(message: pb.Demonstration) -> rater_types.Demonstration:
    """A demonstration as stored."""
    return rater_types.Demonstration(
        event_id=message.event_id,
        sequence=message.sequence,
        project_id=message.project_id,
        rater_id=message.rater_id,
        comparison_id=message.comparison_id,
        prompt=converters.prompt(message.prompt),
        text=message.text,
    )
