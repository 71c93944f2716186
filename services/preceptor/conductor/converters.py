"""Records to protos."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

from google.protobuf.timestamp_pb2 import Timestamp

from preceptor.api.conductor.v1 import loop_service_pb2 as pb
from preceptor.conductor.types import (
    EventRecord,
    LoopRecord,
    LoopState,
    PolicyRange,
    RewardModelRecord,
    RunRecord,
    StageRecord,
)

_STATES: Mapping[LoopState, pb.LoopState.ValueType] = MappingProxyType(
    {
        LoopState.RUNNING: pb.LOOP_STATE_RUNNING,
        LoopState.SUCCEEDED: pb.LOOP_STATE_SUCCEEDED,
        LoopState.FAILED: pb.LOOP_STATE_FAILED,
        LoopState.STOPPED: pb.LOOP_STATE_STOPPED,
    }
)


def loop_to_proto(loop: LoopRecord) -> pb.Loop:
    """A loop with its stages."""
    return pb.Loop(
        loop_id=loop.loop_id,
        state=_STATES[loop.state],
        stages=[_stage(stage) for stage in loop.stages],
        iteration=loop.iteration,
        iterations=loop.iterations,
        error=loop.error,
        created_at=_time(loop.created_at),
    )


def run_to_proto(run: RunRecord) -> pb.Run:
    """A run."""
    return pb.Run(
        run_id=run.run_id,
        loop_id=run.loop_id,
        kind=run.kind,
        state=run.state,
        attempt=run.attempt,
        config_yaml=run.config_yaml,
        output_uri=run.output_uri,
        created_at=_time(run.created_at),
    )


def model_to_proto(model: RewardModelRecord) -> pb.RewardModel:
    """A registered reward model."""
    return pb.RewardModel(
        reward_model_version=model.reward_model_version,
        uri=model.uri,
        run_id=model.run_id,
        project_id=model.project_id,
        label_high_water_mark=model.label_high_water_mark,
        label_hash=model.label_hash,
        rankings=model.rankings,
        heldout_accuracy=model.heldout_accuracy,
        noise_ceiling=model.noise_ceiling,
        score_mean=model.score_mean,
        score_sd=model.score_sd,
        promoted=model.promoted,
        gate=model.gate,
        created_at=_time(model.created_at),
    )


def event_to_proto(event: EventRecord) -> pb.Event:
    """An event."""
    return pb.Event(
        sequence=event.sequence,
        time=_time(event.time),
        kind=event.kind,
        stage=event.stage,
        message=event.message,
        values=dict(event.values),
    )


def range_to_proto(versions: PolicyRange) -> pb.PolicyVersionRange:
    """A range of policy versions."""
    return pb.PolicyVersionRange(
        run_id=versions.run_id,
        first_policy_version=versions.first_policy_version,
        last_policy_version=versions.last_policy_version,
    )


def _stage(stage: StageRecord) -> pb.Stage:
    return pb.Stage(
        name=stage.name,
        state=stage.state.value,
        started_at=_time(stage.started_at),
        finished_at=_time(stage.finished_at),
        run_id=stage.run_id,
        progress=stage.progress,
        message=stage.message,
    )


def _time(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(value)
    return stamp
