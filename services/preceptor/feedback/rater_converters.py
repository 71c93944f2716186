"""Between the protos and the values of what is measured of raters, updates and demonstrations."""

from __future__ import annotations

from dataclasses import asdict

from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.api.feedback.v1 import quality_pb2 as quality
from preceptor.feedback import converters
from preceptor.feedback.quality.types import Estimate, RaterQuality
from preceptor.feedback.rater_service import Report
from preceptor.feedback.types import Demonstration, RaterState
from preceptor.feedback.update_service import ComparisonUpdate


def report_to_proto(project_id: str, report: Report) -> quality.RaterReport:
    found = report.assessment
    return quality.RaterReport(
        project_id=project_id,
        label_high_water_mark=found.label_high_water_mark,
        rankings=found.votes,
        shared_comparisons=found.shared_comparisons,
        krippendorff_alpha=_estimate(found.agreement.alpha),
        fleiss_kappa=_estimate(found.agreement.fleiss),
        fleiss_raters=found.agreement.fleiss_raters,
        cohen_kappa=[
            quality.RaterPair(rater_a=pair.rater_a, rater_b=pair.rater_b, kappa=_estimate(pair.kappa))
            for pair in found.agreement.cohen
        ],
        raters=[_rater(project_id, rater, report) for rater in found.raters],
        unknown_weight=found.unknown_weight,
    )


def _estimate(value: Estimate) -> quality.Estimate:
    return quality.Estimate(**asdict(value))


def _rater(project_id: str, value: RaterQuality, report: Report) -> quality.RaterQuality:
    state = report.states.get(value.rater_id) or RaterState(project_id, value.rater_id)
    return quality.RaterQuality(
        rater_id=value.rater_id,
        rankings=value.rankings,
        reliability=_estimate(value.reliability),
        weight=value.weight,
        gold_accuracy=_estimate(value.gold_accuracy),
        left_wins=_estimate(value.left_wins),
        self_consistency=_estimate(value.self_consistency),
        median_seconds=value.median_seconds,
        fast_share=value.fast_share,
        slow_share=value.slow_share,
        careless=value.careless,
        findings=value.findings,
        state=state_to_proto(state),
    )


def state_to_proto(value: RaterState) -> quality.RaterState:
    return quality.RaterState(
        project_id=value.project_id,
        rater_id=value.rater_id,
        paused=value.paused,
        reason=value.reason,
        changed_by=value.changed_by,
        changed_at=converters.timestamp(value.changed_at),
    )


def comparison_update(request: pb.UpdateComparisonsRequest) -> ComparisonUpdate:
    return ComparisonUpdate(
        request.project_id,
        tuple(request.comparison_ids),
        request.overlap if request.HasField("overlap") else None,
        request.priority if request.HasField("priority") else None,
        converters.state_filter(request.state),
    )


def demonstration(request: pb.SubmitDemonstrationRequest) -> Demonstration:
    return Demonstration(
        event_id=request.event_id,
        project_id=request.project_id,
        rater_id=request.rater_id,
        prompt=converters.prompt(request.prompt),
        text=request.text,
        comparison_id=request.comparison_id,
    )


def demonstration_to_proto(value: Demonstration) -> fb.Demonstration:
    return fb.Demonstration(
        event_id=value.event_id,
        sequence=value.sequence,
        project_id=value.project_id,
        rater_id=value.rater_id,
        prompt=converters.prompt_to_proto(value.prompt),
        text=value.text,
        comparison_id=value.comparison_id,
        guideline_version=value.guideline_version,
        submitted_at=converters.timestamp(value.submitted_at),
    )
